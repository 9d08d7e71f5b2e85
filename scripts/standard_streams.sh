# Read by each script before it does anything: /dev/null where standard input, output or error is closed.
# Bash leaves the script itself open in place of a closed one.
is_stream() { [[ -e /proc/self/fd/$1 && ! /proc/self/fd/$1 -ef $0 ]]; }
is_stream 0 || exec </dev/null
is_stream 1 || exec >/dev/null
is_stream 2 || exec 2>/dev/null
