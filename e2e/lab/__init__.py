"""The lab: a service mesh on one machine, made of stock Envoys configured as Istio configures them.

No Kubernetes and no control plane: every sidecar gets its whole configuration at its start.

    procs     child processes, their logs, ports, waiting; nothing outlives the lab
    certs     one root CA per organisation, workload certificates with SPIFFE ids
    envoy     the bootstrap of a sidecar or a gateway, as JSON
    sidecar   one running Envoy and its admin interface
    topology  organisations, services and pods, as a declaration
    mesh      the declaration, running
    client    HTTP requests that show everything they got
    tools     where Envoy, anvil and the repository are
    bookinfo  the Bookinfo application of the demo, as a topology

To use it from outside this folder, put `e2e/` on `sys.path`.
"""
