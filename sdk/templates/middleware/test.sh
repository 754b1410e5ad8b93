# No handler is here, so that every answer is a 404; middleware surrounds these, too.
field() { ask -o /dev/null -D - "$@" | tr -d '\r' | sed -n 's/^X-Greeting: //p'; }
expect "a field is added" "hello" "$(field http://localhost/)"
expect "what it refuses" 403 "$(ask -H 'X-Refuse: yes' -o /dev/null -w '%{http_code}' http://localhost/)"
expect "also there the field is added" "hello" "$(field -H 'X-Refuse: yes' http://localhost/)"
exit $failed
