//! Certificates of one cluster: an authority made for the run, what it signs, and kubeconfig files.

use std::{fs, io, path::Path};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name or key was refused.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A file cannot be written.
    #[error("cannot write the credentials")]
    Io(#[from] io::Error),
}

/// A certificate authority that lives as long as its cluster.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, both PEM.
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new authority called `name`.
    pub fn new(name: &str) -> Result<Self, PkiError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = subject(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key, PEM.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for `user` in `group`, also valid for serving at `hosts` (names or addresses).
    pub fn issue(&self, user: &str, group: Option<&str>, hosts: &[String]) -> Result<Credentials, PkiError> {
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = subject(user, group);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(Credentials { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// Writes a kubeconfig for `credentials` at `server` (a URL) to `path`.
    pub fn write_kubeconfig(
        &self,
        path: &Path,
        server: &str,
        credentials: &Credentials,
    ) -> Result<(), PkiError> {
        let data = |pem: &str| ByteString(pem.as_bytes().to_vec());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "soma", "cluster": {
                "server": server, "certificate-authority-data": data(&self.pem)}}],
            "users": [{"name": "soma", "user": {
                "client-certificate-data": data(&credentials.certificate),
                "client-key-data": data(&credentials.key)}}],
            "contexts": [{"name": "soma", "context": {"cluster": "soma", "user": "soma"}}],
            "current-context": "soma",
        });
        write_private(path, &format!("{config:#}\n"))
    }
}

impl Credentials {
    /// Writes `<name>.crt` and `<name>.key` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), PkiError> {
        fs::write(folder.join(format!("{name}.crt")), &self.certificate)?;
        write_private(&folder.join(format!("{name}.key")), &self.key)
    }
}

/// Writes the key pair that signs service account tokens: `sa.key` and `sa.pub` in `folder`.
pub fn write_service_account_keys(folder: &Path) -> Result<(), PkiError> {
    let key = KeyPair::generate()?;
    fs::write(folder.join("sa.pub"), key.public_key_pem())?;
    write_private(&folder.join("sa.key"), &key.serialize_pem())
}

/// Writes a file only its owner can read.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn subject(common_name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}
