# Which of its functions the program is asked for.

case ${1:-} in
shout | reverse | add | primes)
    "$@"
    ;;
*)
    # Whoever asks for something else is told what there is.
    echo "usage: program shout|reverse|add|primes ARGUMENTS" >&2
    exit 2
    ;;
esac
