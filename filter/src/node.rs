//! The proxy that a VM runs in, as Istio's bootstrap describes it.

use crate::host::Host;
use meshchain_core::header::MAX_NAME;

/// Who this VM is: read once, when the session opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Mesh id.
    pub mesh: String,
    /// Cluster id.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// Workload name.
    pub workload: String,
    /// Pod name.
    pub pod: String,
    /// Revision of the workload, by Istio's canonical label.
    pub revision: String,
    /// Whether this proxy stands in the middle: a gateway or a waypoint.
    pub middle: bool,
}

impl Node {
    /// Asks the host; what is missing is empty, and what a header cannot hold is left out.
    pub fn read(host: &impl Host) -> Self {
        let text = |path: &str| {
            let bytes = host.property(path).unwrap_or_default();
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            text.retain(|c| !c.is_control());
            while text.len() > MAX_NAME {
                text.pop();
            }
            text
        };
        Self {
            mesh: text("xds\0node\0metadata\0MESH_ID"),
            cluster: text("xds\0node\0metadata\0CLUSTER_ID"),
            namespace: text("xds\0node\0metadata\0NAMESPACE"),
            workload: text("xds\0node\0metadata\0WORKLOAD_NAME"),
            pod: text("xds\0node\0metadata\0NAME"),
            revision: text("xds\0node\0metadata\0LABELS\0service.istio.io/canonical-revision"),
            middle: ["router~", "waypoint~"]
                .iter()
                .any(|kind| text("xds\0node\0id").starts_with(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;

    #[test]
    fn names_are_cut_to_what_a_header_holds_between_characters() {
        let host = TestHost::default();
        host.set_text(
            "xds\0node\0metadata\0NAME",
            format!("a\n{}", "\u{e9}".repeat(MAX_NAME)).as_bytes(),
        );
        host.set_text("xds\0node\0metadata\0NAMESPACE", b"\xff\0shop");
        host.set_text("xds\0node\0id", b"router~10.0.0.1~gateway-0.edge");
        let node = Node::read(&host);
        assert_eq!(node.pod, format!("a{}", "\u{e9}".repeat((MAX_NAME - 1) / 2)));
        assert_eq!((node.namespace.as_str(), node.mesh.as_str()), ("\u{fffd}shop", ""));
        assert!(node.middle);
        host.set_text("xds\0node\0id", b"waypoint~10.0.0.1~w-0.shop");
        assert!(Node::read(&host).middle);
        host.set_text("xds\0node\0id", b"sidecar~10.0.0.1~a-0.shop");
        assert!(!Node::read(&host).middle);
    }
}
