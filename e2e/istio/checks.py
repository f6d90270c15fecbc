"""What must hold of a call's receipts, for the tests of this folder."""

CLIENT, SERVER = "spiffe://cluster.local/ns/shop/sa/client", "spiffe://cluster.local/ns/shop/sa/server"
COLLECTOR = "spiffe://cluster.local/ns/meshchain/sa/meshchain-collector"
CLUSTER = "outbound|8080||meshchain-collector.meshchain.svc.cluster.local"


def agreed(scene, call):
    """The two spans of a call that went well; see both_sides."""
    assert call.status == 200
    return both_sides(scene, call.trace_id, 200)


def both_sides(scene, trace_id, status):
    """The client's and the server's span of a call: one hop, alike on both sides, between the right two."""
    spans = {span["side"]: span for span in scene.spans(trace_id, 2)}
    assert set(spans) == {"client", "server"}
    client, server = spans["client"], spans["server"]
    assert client["span_id"] == server["span_id"]
    assert client["hop_digest"] == server["hop_digest"]
    assert client["call"]["status"] == server["call"]["status"] == status
    assert (client["own"]["peer_principal"], server["own"]["peer_principal"]) == (SERVER, CLIENT)
    return client, server
