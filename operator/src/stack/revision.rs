//! What a revision is made of, and its name. Pure.

use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use crate::workload::Resources;

/// Version of everything in the pod template that is constant. Raise it together with a change to the template: the
/// pods are then replaced as a new revision, with a ready one always serving. A test notices when it is forgotten.
const TEMPLATE: u32 = 1;

/// Name of the revision: a hash over the canonical bytes of what the pods are given, never over a library's types,
/// so that a new build of the operator with the same output restarts nothing.
pub fn name(service: &str, payload: &str, image: &str, resources: &Resources) -> String {
    let parts: Value = json!({
        "config": payload,
        "image": image,
        "resources": resources.json(),
        "template": TEMPLATE,
    });
    format!("{service}-{}", ConfigHash::of(&canonical_json(&parts)).short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_depends_on_each_part_and_on_nothing_else() {
        let resources = Resources::of("100m", "256Mi", "1Gi");
        let base = name("memory", "{}", "img:1", &resources);
        assert_eq!(base, "memory-dc49b1fa", "a changed hash would restart every memory pod on an upgrade");
        assert_ne!(base, name("memory", "{ }", "img:1", &resources));
        assert_ne!(base, name("memory", "{}", "img:2", &resources));
        assert_ne!(base, name("memory", "{}", "img:1", &Resources::of("100m", "256Mi", "2Gi")));
    }
}
