//! An image as the archive `docker load`, `ctr images import` and `kind load image-archive` read.

use std::{collections::BTreeMap, fs, io::Write};

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::images::{ImageError, layer::Built};

/// What a container of the image runs, as the OCI image specification names it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// User id, as text.
    pub user: String,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// `port/protocol`, each with an empty object.
    pub exposed_ports: BTreeMap<String, BTreeMap<String, String>>,
    /// The folder it starts in; empty for `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The signal that asks it to stop; empty for SIGTERM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

/// An image whose layers are in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its full name with tag.
    pub reference: String,
    config: Vec<u8>,
    layers: Vec<Built>,
}

impl Image {
    pub(crate) fn new(reference: &str, layers: Vec<Built>, config: &ImageConfig) -> Result<Self, ImageError> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        Ok(Self { reference: reference.to_owned(), config, layers })
    }

    /// The image's id: the SHA-256 of its configuration, which names its layers.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(&self.config))
    }

    /// The size of all layers, in bytes.
    pub fn size(&self) -> u64 {
        self.layers.iter().filter_map(|layer| fs::metadata(&layer.path).ok()).map(|file| file.len()).sum()
    }

    /// Writes the archive.
    pub fn write<W: Write>(&self, output: W) -> Result<(), ImageError> {
        let mut tar = tar::Builder::new(output);
        let config = format!("{}.json", self.id());
        append(&mut tar, &config, self.config.len() as u64, self.config.as_slice())?;
        let mut names = Vec::new();
        for layer in &self.layers {
            let error = |source| ImageError::Input { path: layer.path.clone(), source };
            let name = format!("{}/layer.tar", layer.digest);
            let file = fs::File::open(&layer.path).map_err(error)?;
            let size = file.metadata().map_err(error)?.len();
            append(&mut tar, &name, size, file)?;
            names.push(name);
        }
        let manifest =
            serde_json::to_vec(&json!([{"Config": config, "RepoTags": [self.reference], "Layers": names}]))?;
        append(&mut tar, "manifest.json", manifest.len() as u64, manifest.as_slice())?;
        tar.into_inner().and_then(|mut output| output.flush()).map_err(ImageError::Write)
    }
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl std::io::Read,
) -> Result<(), ImageError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content).map_err(ImageError::Write)
}

/// The processor's name in image configurations.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::Cache, images::layer::Layer};

    #[test]
    fn the_id_follows_the_layers_and_the_archive_names_them() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let image = |text: &str| {
            let layer = Layer::default().text("/a", text, 0o644).build(&cache, "t").unwrap();
            Image::new("example.test/a:1", vec![layer], &ImageConfig::default()).unwrap()
        };
        assert_eq!(image("x").id(), image("x").id());
        assert_ne!(image("x").id(), image("y").id());

        let mut bytes = Vec::new();
        image("x").write(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut manifest = serde_json::Value::Null;
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            if entry.path().unwrap().ends_with("manifest.json") {
                manifest = serde_json::from_reader(entry).unwrap();
            }
        }
        assert_eq!(manifest[0]["RepoTags"][0], "example.test/a:1");
    }
}
