//! The images the local cluster runs: its own (pause, DNS), PostgreSQL, and the project's programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::Cache,
    exec::run,
    gobuild,
    images::{
        ImageError,
        archive::{Image, ImageConfig},
        closure::with_libraries,
        layer::Layer,
        postgres,
        system::{Account, BUSYBOX},
    },
    model::{self, MODEL, MODEL_FILES},
    programs,
};

/// The image that holds a pod's namespaces open.
pub const PAUSE: &str = "soma.local/pause:1";
/// The image of the cluster's DNS.
pub const COREDNS: &str = "soma.local/coredns:1";
/// The user of the project's own images.
const ACCOUNT: Account = Account { name: "soma", user: 10_001, group: 10_001, home: "/" };

/// The images the cluster itself needs, and PostgreSQL.
pub fn system(cache: &Cache) -> Result<Vec<Image>, ImageError> {
    let pause = base().busybox().build(cache, "pause")?;
    let sleep = [BUSYBOX, "sleep", "infinity"].map(str::to_owned).to_vec();
    let pause = Image::new(PAUSE, vec![pause], &ImageConfig { entrypoint: sleep, ..user() })?;

    let binary = gobuild::COREDNS.ensure(cache)?;
    let dns = base().file("/coredns", &binary, 0o755).build(cache, "coredns")?;
    let dns = Image::new(COREDNS, vec![dns], &ImageConfig { entrypoint: vec!["/coredns".into()], ..user() })?;
    Ok(vec![pause, dns, postgres::image(cache)?])
}

/// The images of the project's programs, tagged with the workspace's version.
pub fn services(cache: &Cache) -> Result<Vec<Image>, ImageError> {
    let (soma_operator, soma_memory) =
        (programs::program("soma-operator")?, programs::program("soma-memory")?);
    let model = model::ensure(cache)?;
    let weights = MODEL_FILES
        .iter()
        .fold(Layer::default(), |layer, file| {
            layer.file(&format!("/models/{MODEL}/{file}"), &model.join(file), 0o644)
        })
        .build(cache, "model")?;
    let libraries = |program: &Path| with_libraries(base(), [program])?.build(cache, "libraries");
    let program = |name: &str, source: &Path| -> Result<_, ImageError> {
        let stripped = stripped(cache, name, source)?;
        Layer::default().file(&format!("/usr/local/bin/{name}"), &stripped, 0o755).build(cache, name)
    };
    let config = |name: &str, ports: &[&str]| ImageConfig {
        entrypoint: vec![format!("/usr/local/bin/{name}")],
        exposed_ports: ports.iter().map(|port| (format!("{port}/tcp"), [].into())).collect(),
        ..user()
    };
    let reference = |name: &str| format!("docker.io/somastack/{name}:{}", env!("CARGO_PKG_VERSION"));
    let operator = Image::new(
        &reference("operator"),
        vec![libraries(&soma_operator)?, program("soma-operator", &soma_operator)?],
        &config("soma-operator", &["8081"]),
    )?;
    let memory = Image::new(
        &reference("memory"),
        vec![libraries(&soma_memory)?, weights, program("soma-memory", &soma_memory)?],
        &config("soma-memory", &["9595", "50053"]),
    )?;
    Ok(vec![operator, memory])
}

/// What every image starts from: users, trusted authorities, and a folder for temporary files.
fn base() -> Layer {
    Layer::default().accounts(&[ACCOUNT]).authorities()
}

fn user() -> ImageConfig {
    ImageConfig {
        user: ACCOUNT.user.to_string(),
        env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()],
        ..Default::default()
    }
}

/// `source` without its debugging information, in the cache.
fn stripped(cache: &Cache, name: &str, source: &Path) -> Result<PathBuf, ImageError> {
    let error = |source_error| ImageError::Input { path: source.into(), source: source_error };
    let metadata = std::fs::metadata(source).map_err(error)?;
    let changed = metadata.modified().map_err(error)?;
    let key = crate::cache::fingerprint([
        source.as_os_str().as_encoded_bytes(),
        format!("{changed:?} {}", metadata.len()).as_bytes(),
    ]);
    cache.ensure(&format!("stripped/{name}-{key}"), |target| {
        run(Command::new("strip").arg("-o").arg(target).arg(source))?;
        Ok(())
    })
}
