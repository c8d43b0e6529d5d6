//! Writes what is generated from the types: the definitions to `crds/generated`, their reference to `docs/reference`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (path, text) in soma_crds::generated()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
