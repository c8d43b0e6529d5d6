//! The checked-in files are those the types say.

#[test]
fn generated_files_are_current() {
    for (path, text) in soma_crds::generated().unwrap() {
        let current = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            current == text,
            "{} is out of date; run `cargo run -p soma-crds --bin crdgen`",
            path.display()
        );
    }
}
