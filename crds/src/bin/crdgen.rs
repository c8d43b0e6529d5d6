//! Writes the generated definitions: `crdgen [DIRECTORY]`, by default `crds/generated`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("generated"), PathBuf::from);
    std::fs::create_dir_all(&directory)?;
    for (file, definition) in soma_crds::definitions() {
        let path = directory.join(file);
        std::fs::write(&path, soma_crds::to_yaml(&definition)?)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
