//! `docs/reference/memory-openapi.json` is what the service describes itself as.

use std::path::Path;

#[test]
fn the_checked_in_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/memory-openapi.json");
    let current = soma_memory::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("SOMA_REGENERATE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == current,
        "{} has drifted; write it anew with: SOMA_REGENERATE=1 cargo test -p soma-memory --test openapi",
        path.display()
    );
}
