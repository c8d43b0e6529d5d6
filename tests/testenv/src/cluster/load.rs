//! Loading images into every node's containerd.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    cluster::{ClusterError, io_error, node, spec::CONTAINERD_SOCKET, spec::Spec},
    exec,
    images::Image,
};

const POLL: Duration = Duration::from_millis(50);

/// Loads `images` into every node that does not have them yet.
pub fn load(spec: &Spec, images: &[&Image]) -> Result<(), ClusterError> {
    thread::scope(|scope| {
        let nodes: Vec<_> =
            (0..spec.nodes).map(|node| scope.spawn(move || load_node(spec, node, images))).collect();
        nodes.into_iter().try_for_each(|node| {
            node.join()
                .unwrap_or_else(|_| Err(io_error("load images")(io::Error::other("a loader panicked"))))
        })
    })
}

fn load_node(spec: &Spec, node: u8, images: &[&Image]) -> Result<(), ClusterError> {
    let record = spec.node_dir(node).join("images.json");
    let mut loaded = read(&record).map_err(io_error("read which images are loaded"))?;
    let Some(init) = node::init_pid(spec, node) else {
        return Err(io_error("find the node")(io::ErrorKind::NotFound.into()));
    };
    wait_for_containerd(init);
    for image in images {
        let id = image.id();
        if loaded.get(&image.reference) == Some(&id) {
            continue;
        }
        import(init, image)?;
        loaded.insert(image.reference.clone(), id);
        fs::write(
            &record,
            serde_json::to_vec_pretty(&loaded).map_err(|error| io_error("record images")(error.into()))?,
        )
        .map_err(io_error("record which images are loaded"))?;
    }
    Ok(())
}

/// Image references and the ids they were loaded with.
fn read(record: &Path) -> io::Result<BTreeMap<String, String>> {
    match fs::read(record) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

fn ctr(init: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--mount", "--pid", "--"]);
    command.args(["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
    command
}

fn wait_for_containerd(init: u32) {
    // The init starts containerd again should it end, and the import that follows says what is wrong with it.
    const TRIES: u32 = 400;
    for _ in 0..TRIES {
        if exec::run(ctr(init).arg("version")).is_ok() {
            return;
        }
        thread::sleep(POLL);
    }
}

fn import(init: u32, image: &Image) -> Result<(), ClusterError> {
    let mut command = ctr(init);
    command
        .args(["images", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io_error("start the image import"))?;
    let written = match child.stdin.take() {
        Some(input) => image.write(io::BufWriter::with_capacity(1 << 20, input)),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(io_error("wait for the image import"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io_error("import an image")(io::Error::other(format!("{}: {said}", image.reference))));
    }
    Ok(written?)
}
