"""What every daemon of tempos needs, once: broker, and whatever is built beside it, stand on this.

    entry        the command `tempos`, which hears no SIGHUP too early, and ends at once
    logs         where the log goes, and how a line looks
    signals      what SIGTERM and SIGHUP mean, from the first moment to the last
    loop         the event loop that a daemon serves on
    rereading    reading a configuration again, when SIGHUP says so
    last_resort  what ends a process that was told to stop and does not
    notify       tells the service manager how far it is
    toml         a file of TOML: its text, and the document in it
    schema       what a document may hold, as a table, and every fault of one at once
    kinds        the kinds of values in it: numbers, names, addresses
    token        the token that an HTTP door asks for, from the configuration or a file
    problems     errors of an HTTP API as documents (RFC 9457)
    operations   those of an API, each with what it takes: checked, and described without what serves it
    models       what every API answers, for descriptions
    slices       long work on an event loop that has better things to do
    web          an application with problems, health, readiness and its OpenAPI document
    door         what an application is never asked by: no token, web pages, endless bodies
    http_server  serves an application on an event loop that belongs to the daemon; its connections by h11 in
                 http_connections, by httptools in http_fast

Rules: it imports ``tempos`` and nothing of a daemon; the modules about HTTP need what `tempos[broker]`
installs and are imported by those who serve HTTP only.
"""
