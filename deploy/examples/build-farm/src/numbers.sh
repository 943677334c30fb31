# What the program does to numbers.

# The sum of all arguments.
add() {
    sum=0
    for number in "$@"; do
        sum=$((sum + number))
    done
    echo "$sum"
}

# The primes up to a number.
primes() {
    found=
    for number in $(seq 2 "$1"); do
        for prime in $found; do
            if [ $((number % prime)) -eq 0 ]; then
                continue 2
            fi
        done
        found="${found:+$found }$number"
    done
    echo "$found"
}
