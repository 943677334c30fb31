# What the program does to text.

# In capitals, with emphasis.
shout() {
    echo "$*!" | tr '[:lower:]' '[:upper:]'
}

# The words in the opposite order.
reverse() {
    reversed=
    for word in "$@"; do
        reversed="$word${reversed:+ $reversed}"
    done
    echo "$reversed"
}
