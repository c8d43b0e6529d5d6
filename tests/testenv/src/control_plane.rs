//! A real Kubernetes control plane without nodes: etcd, kube-apiserver and kube-controller-manager.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client, Config, config::KubeConfigOptions, config::Kubeconfig};

use crate::{
    audit::AuditLog,
    cache::{Cache, CacheError},
    etcd,
    gobuild::{BuildError, ETCD, KUBE},
    pki::{self, Authority, PkiError},
    ports::free_port,
    rundir::RunDir,
    supervise::{Launch, SuperviseError, Supervised},
};

// A server that lost its port to another process ends at once; a third loss in a row is no coincidence.
const ATTEMPTS: u32 = 3;
const POLL: Duration = Duration::from_millis(50);

/// Every request, without its content, once it is answered.
pub(crate) const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// Why no control plane could be started.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A server ended.
    #[error(transparent)]
    Server(#[from] SuperviseError),
    /// A file or port cannot be used.
    #[error("cannot prepare the control plane")]
    Io(#[from] io::Error),
    /// The client cannot be made from the kubeconfig.
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The API server answered with an error.
    #[error("the API server refused a request")]
    Client(#[from] kube::Error),
    /// The programs could not be started in the background.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A running control plane; dropping it ends its servers and removes its data.
pub struct ControlPlane {
    client: Client,
    kube: PathBuf,
    audit: AuditLog,
    // Dropped in this order: the servers first, their data last.
    servers: Servers,
    dir: RunDir,
}

struct Servers {
    controller_manager: Supervised,
    apiserver: Supervised,
    etcd: Supervised,
}

impl ControlPlane {
    /// Starts one and waits until it serves and the `default` namespace is ready for pods. Builds the programs first
    /// when the cache does not have them, which takes minutes and says so on standard error.
    pub async fn start() -> Result<Self, ControlPlaneError> {
        let (kube, etcd) = tokio::task::spawn_blocking(binaries).await??;
        let mut attempt = 1;
        loop {
            match Self::start_once(&kube, &etcd).await {
                Err(ControlPlaneError::Server(SuperviseError::Ended { said, .. }))
                    if attempt < ATTEMPTS && said.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig with all rights; the file goes with the control plane.
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(self.dir.path())
    }

    /// The audit log, level `Metadata`.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// A `kubectl` command for this control plane.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kube);
        command.arg("kubectl").env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The process ids of etcd, the API server and the controller manager.
    pub fn pids(&self) -> [u32; 3] {
        let Servers { controller_manager, apiserver, etcd } = &self.servers;
        [etcd.pid(), apiserver.pid(), controller_manager.pid()]
    }

    async fn start_once(kube: &Path, etcd: &Path) -> Result<Self, ControlPlaneError> {
        let dir = RunDir::new("control-plane")?;
        let ports = Ports { etcd: etcd::Ports::free()?, api: free_port()?, manager: free_port()? };
        write_credentials(dir.path(), ports.api)?;
        let mut etcd = etcd::launch(etcd, dir.path(), ports.etcd).start()?;
        let mut apiserver = start_apiserver(kube, dir.path(), &ports)?;
        let client = connect(&kubeconfig(dir.path())).await?;
        while client.apiserver_version().await.is_err() {
            etcd.check()?;
            apiserver.check()?;
            tokio::time::sleep(POLL).await;
        }
        // Only now: the controller manager waits ten seconds for the API server and then gives up.
        let controller_manager = start_controller_manager(kube, dir.path(), &ports)?;
        let mut servers = Servers { controller_manager, apiserver, etcd };
        wait_ready(&client, &mut servers).await?;
        let audit = AuditLog::new(dir.path().join("audit.log"));
        Ok(Self { client, kube: kube.to_path_buf(), audit, servers, dir })
    }
}

struct Ports {
    etcd: etcd::Ports,
    api: u16,
    manager: u16,
}

fn binaries() -> Result<(PathBuf, PathBuf), ControlPlaneError> {
    let cache = Cache::open()?;
    Ok((KUBE.ensure(&cache)?, ETCD.ensure(&cache)?))
}

fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("kubeconfig")
}

fn write_credentials(dir: &Path, port: u16) -> Result<(), ControlPlaneError> {
    let authority = Authority::new("soma-testenv")?;
    let server = format!("https://127.0.0.1:{port}");
    let hosts = ["127.0.0.1", "10.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
    fs::write(dir.join("ca.crt"), authority.pem())?;
    authority.issue("kube-apiserver", None, &hosts)?.write(dir, "apiserver")?;
    let admin = authority.issue("admin", Some("system:masters"), &[])?;
    authority.write_kubeconfig(&kubeconfig(dir), &server, &admin)?;
    let manager = authority.issue("system:kube-controller-manager", None, &[])?;
    authority.write_kubeconfig(&dir.join("manager.kubeconfig"), &server, &manager)?;
    pki::write_service_account_keys(dir)?;
    fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
    Ok(())
}

fn start_apiserver(program: &Path, dir: &Path, ports: &Ports) -> Result<Supervised, SuperviseError> {
    let file = |name: &str| dir.join(name).display().to_string();
    Launch::new("kube-apiserver", program, dir.join("apiserver.log"))
        .args(["kube-apiserver", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        // The API server refuses to publish a loopback address as the service "kubernetes"; no pod runs here to use it.
        .args(["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24"])
        .args(["--authorization-mode=RBAC", "--allow-privileged=true"])
        .args([
            format!("--secure-port={}", ports.api),
            format!("--etcd-servers={}", etcd::url(ports.etcd.client)),
        ])
        .args([
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ])
        .start()
}

fn start_controller_manager(program: &Path, dir: &Path, ports: &Ports) -> Result<Supervised, SuperviseError> {
    let file = |name: &str| dir.join(name).display().to_string();
    Launch::new("kube-controller-manager", program, dir.join("manager.log"))
        .args(["kube-controller-manager", "--leader-elect=false", "--use-service-account-credentials"])
        .args(["--bind-address=127.0.0.1"])
        .args([
            format!("--secure-port={}", ports.manager),
            format!("--kubeconfig={}", file("manager.kubeconfig")),
            format!("--service-account-private-key-file={}", file("sa.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            // Made under /usr otherwise.
            format!("--flex-volume-plugin-dir={}", file("volume-plugins")),
        ])
        .start()
}

/// A client for the kubeconfig at `path`.
async fn connect(path: &Path) -> Result<Client, ControlPlaneError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The `default` service account is the last thing a fresh control plane makes: once it is there, the API server
/// serves, the namespaces exist and the controllers run.
async fn wait_ready(client: &Client, servers: &mut Servers) -> Result<(), ControlPlaneError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    while !matches!(accounts.get_opt("default").await, Ok(Some(_))) {
        let Servers { controller_manager, apiserver, etcd } = servers;
        etcd.check()?;
        apiserver.check()?;
        controller_manager.check()?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
