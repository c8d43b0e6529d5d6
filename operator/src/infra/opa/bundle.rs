//! The bundle OPA downloads: the same content gives the same bytes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use soma_settings::canonical_json;

use super::core;
use super::rego::File;
use super::sign::Signing;

/// What a bundle may set; everything else is out of its reach, `system` first of all.
const ROOTS: [&str; 3] = ["soma", "tenant_policies", "tenants"];
/// Folder of the tenants' policies, one folder per ConfigMap in it.
const POLICIES: &str = "tenant_policies";
/// Folder of the documents about tenants.
const TENANTS: &str = "tenants";
const MANIFEST: &str = ".manifest";
const SIGNATURES: &str = ".signatures.json";
const DATA: &str = "data.json";
/// Largest bundle, in bytes: a ConfigMap holds 1 MiB, and JSON carries bytes as text.
const LIMIT: usize = 700 << 10;
/// Largest bundle unpacked, in bytes.
const UNPACKED: u64 = 64 << 20;

/// What one ConfigMap adds to the policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// By file name, without tests.
    pub policies: BTreeMap<String, String>,
    /// Documents by tenant.
    pub data: BTreeMap<String, Value>,
}

/// What the tenants add, by the name of the ConfigMap.
pub type Sources = BTreeMap<String, Source>;

/// A signed bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Hash of its content.
    pub revision: String,
    /// A `tar.gz`.
    pub bytes: Vec<u8>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the policies cannot be packed")]
    Io(#[from] std::io::Error),
    #[error(
        "the policies take {0} bytes packed, and {LIMIT} is the most a bundle can have. Remove ConfigMaps labelled openpolicyagent.org/policy or openpolicyagent.org/data"
    )]
    TooLarge(usize),
}

/// A file of a bundle.
pub struct Entry {
    pub path: String,
    text: String,
}

impl Entry {
    /// What OPA takes the hash of. Of JSON that is not the text but what its own encoder writes, which is the same but
    /// for two line separators that it always escapes.
    pub fn hashed(&self) -> String {
        if self.path.strip_suffix(".rego").is_some() {
            return self.text.clone();
        }
        self.text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    revision: String,
    metadata: Metadata,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    /// Tenants whose document comes from a ConfigMap.
    tenants: BTreeMap<String, BTreeSet<String>>,
}

/// Where a tenant's policy is in the bundle.
pub fn path(map: &str, name: &str) -> String {
    format!("{POLICIES}/{map}/{name}")
}

fn entries(sources: &Sources) -> Vec<Entry> {
    let mut entries: Vec<_> =
        core::files().into_iter().map(|File { path, text }| Entry { path, text }).collect();
    for (map, source) in sources {
        let policies = source.policies.iter();
        entries.extend(policies.map(|(name, text)| Entry { path: path(map, name), text: text.clone() }));
    }
    let documents = sources.values().flat_map(|source| &source.data);
    let documents: BTreeMap<_, _> = documents.collect();
    // `data.json` at the root is one document; a tenant's name may have any character that a path may not.
    entries.push(Entry { path: DATA.into(), text: canonical_json(&json!({TENANTS: documents})) });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// The revision content has: any change of it, and only that, changes it.
fn revision(entries: &[Entry]) -> String {
    let mut hash = Sha256::new();
    for entry in entries {
        for part in [&entry.path, &entry.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    HEXLOWER.encode(&hash.finalize())
}

/// Packs and signs.
pub fn pack(sources: &Sources, signing: &Signing) -> Result<Bundle, BundleError> {
    let mut entries = entries(sources);
    let revision = revision(&entries);
    let tenants: BTreeMap<_, BTreeSet<_>> = sources
        .iter()
        .filter(|(_, source)| !source.data.is_empty())
        .map(|(map, source)| (map, source.data.keys().collect()))
        .collect();
    let manifest =
        json!({"metadata": {"tenants": tenants}, "rego_version": 1, "revision": revision, "roots": ROOTS});
    entries.insert(0, Entry { path: MANIFEST.into(), text: canonical_json(&manifest) });
    let signatures = signing.sign(&entries);
    entries.insert(1, Entry { path: SIGNATURES.into(), text: signatures });
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in &entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, &entry.path, entry.text.as_bytes())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    let bytes = gzip.finish()?;
    if bytes.len() > LIMIT { Err(BundleError::TooLarge(bytes.len())) } else { Ok(Bundle { revision, bytes }) }
}

/// The revision of a bundle and what tenants have in it; nothing when this key did not sign it.
pub fn unpack(bytes: &[u8], signing: &Signing) -> Option<(String, Sources)> {
    let mut tar = tar::Archive::new(GzDecoder::new(bytes).take(UNPACKED));
    let (mut entries, mut signatures) = (Vec::new(), None);
    for entry in tar.entries().ok()? {
        let mut entry = entry.ok()?;
        let path = entry.path().ok()?.to_str()?.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).ok()?;
        match path.as_str() {
            SIGNATURES => signatures = Some(text),
            _ => entries.push(Entry { path, text }),
        }
    }
    if signatures? != signing.sign(&entries) {
        return None;
    }
    let files: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.path, entry.text)).collect();
    let manifest: Manifest = serde_json::from_str(files.get(MANIFEST)?).ok()?;
    let data: Value = serde_json::from_str(files.get(DATA)?).ok()?;
    let mut sources = Sources::new();
    for (path, text) in files {
        let parts: Vec<_> = path.split('/').collect();
        if let [POLICIES, map, name] = parts[..] {
            sources.entry(map.into()).or_default().policies.insert(name.into(), text);
        }
    }
    for (map, tenants) in manifest.metadata.tenants {
        let source = sources.entry(map).or_default();
        source
            .data
            .extend(tenants.into_iter().map(|tenant| (tenant.clone(), data[TENANTS][&tenant].clone())));
    }
    Some((manifest.revision, sources))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn sources() -> Sources {
        let policies =
            [("a.rego", "package tenant_policies.acme\n"), ("b.rego", "package tenant_policies.acme.more\n")];
        let source = Source {
            policies: policies.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
            data: [("acme".to_owned(), json!({"suspended": false})), ("b/ü\u{2028}".to_owned(), json!({}))]
                .into(),
        };
        [
            ("one".to_owned(), source),
            ("two".to_owned(), Source { data: [("c".to_owned(), json!({}))].into(), ..Source::default() }),
        ]
        .into()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let signing = Signing::fixed();
        let bundle = pack(&sources(), &signing).unwrap();
        let again: Sources = sources().into_iter().rev().collect();
        assert_eq!(pack(&again, &signing).unwrap(), bundle);
        assert_eq!(unpack(&bundle.bytes, &signing), Some((bundle.revision.clone(), sources())));
        assert_eq!(unpack(&bundle.bytes, &Signing::generate()), None);
        let other = pack(&sources(), &Signing::generate()).unwrap();
        assert_eq!(other.revision, bundle.revision);
        assert_ne!(other.bytes, bundle.bytes);
        let mut less = sources();
        less.remove("two");
        assert_ne!(pack(&less, &signing).unwrap().revision, bundle.revision);
    }

    /// The hash changes with the policies of a release, and with nothing else.
    #[test]
    fn a_revision_does_not_change_by_accident() {
        let entry = |path: &str, text: &str| Entry { path: path.into(), text: text.into() };
        let golden = revision(&[entry("a", "bc"), entry("d", "")]);
        assert_eq!(golden, "80b60b25a5b8483beb23b7143c98b9ccc6d5736e470ec6b9e9f1ca1fb1b48fcf");
        assert_ne!(revision(&[entry("ab", "c"), entry("d", "")]), golden);
    }

    #[test]
    fn what_is_no_bundle_has_no_content() {
        assert_eq!(unpack(b"nonsense", &Signing::fixed()), None);
        assert_eq!(unpack(b"", &Signing::fixed()), None);
    }

    #[test]
    fn a_bundle_that_fits_into_no_config_map_is_refused() {
        let mut sources = sources();
        let noise: String = (0..60_000).map(|_| crate::random::secret()).collect();
        sources.entry("three".into()).or_default().data.insert("t".into(), json!({"data": noise}));
        let error = pack(&sources, &Signing::generate()).unwrap_err();
        assert!(matches!(error, BundleError::TooLarge(bytes) if bytes > LIMIT), "{error}");
    }
}
