"""The lab: a service mesh on one machine, made of stock Envoys configured as Istio configures them.

No Kubernetes and no control plane: every sidecar gets its whole configuration at its start.

    procs     child processes, their logs, ports, waiting; nothing outlives the lab
    certs     one root CA per organisation, workload certificates with SPIFFE ids
    envoy     the bootstrap of a sidecar or a gateway, as JSON
    sidecar   one running Envoy and its admin interface
    topology  organisations, services and pods, as a declaration
    mesh      the declaration, running
    client    HTTP requests that show everything they got
    batches   batches as a proxy sends them
    messages  protobuf messages, read
    tools     where Envoy, anvil and the repository are
    plain     an Envoy outside any mesh, with the filter and a listener for each of its configurations
    standin   a stand-in for the collector that answers as it is told
    posts     what a filter posted, read
    load      calls one after another, each in a trace of its own
    bookinfo  the Bookinfo application of the demo, as a topology
    chain     three services in a row, and what crosses the wire between them
    receipts  what filters and tracers send, taken down
    evidence  what a collector gives of a trace, read and judged
    gateways  two organisations, and the gateways and waypoints between them
    context   the matrix of trace contexts that goes through a chain

To use it from outside this folder, put `e2e/` on `sys.path`.
"""
