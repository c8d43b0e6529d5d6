//! The checked-in definitions are those the types say.

#[test]
fn generated_definitions_are_current() {
    for (file, definition) in soma_crds::definitions() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == soma_crds::to_yaml(&definition).unwrap(),
            "{} is out of date; run `cargo run -p soma-crds --bin crdgen`",
            path.display()
        );
    }
}
