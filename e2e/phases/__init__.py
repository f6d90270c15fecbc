"""The phase matrix: what becomes of a call in Envoy, and the record that the filter must make of it.

    app       an application that behaves as its caller asks: it breaks off, hangs, streams, fails twice
    caller    requests of every kind, on a socket of their own
    h2        one request over HTTP/2, frame by frame
    recorder  what the filters post, decoded, on its way to a real collector
    scene     the sidecars, with the routes and filters that the situations need
"""
