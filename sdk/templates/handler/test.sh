expect "GET" "hello, world" "$(ask http://localhost/@NAME@)"
expect "GET with a name" "hello, Ada" "$(ask http://localhost/@NAME@/Ada)"
expect "HEAD" 200 "$(ask -I -o /dev/null -w '%{http_code}' http://localhost/@NAME@)"
expect "POST" 405 "$(ask -d x -o /dev/null -w '%{http_code}' http://localhost/@NAME@)"
exit $failed
