//! What `sealed` says, against the leaves: the root of their tree.

use super::check::Fsck;
use super::findings::Damage;
use meshchain_stored::sealed::SEALED;

impl Fsck<'_> {
    /// Compares the root, when the tree has grown to the end of what is sealed.
    pub(super) fn at_sealed_end(&mut self) {
        let Some(state) = self.sealed.state.as_ref().filter(|s| s.end() == self.edge.size()) else {
            return;
        };
        let found = self.edge.head();
        if self.doubt || found == state.head() {
            return;
        }
        let fault = format!(
            "speaks of {} leaves with root {}, those stored have root {}",
            found.size,
            hex::encode(state.root),
            hex::encode(found.root)
        );
        self.sealed_damage(fault, "the collector does not start; no leaf or entry is lost");
    }

    fn sealed_damage(&mut self, fault: String, cost: &str) {
        let (file, cost) = (SEALED.to_owned(), cost.to_owned());
        self.report.damage(Damage { file, offset: None, fault, cost, leaves: None });
    }
}
