//! The volumes of the native cluster: a folder of this machine for every claim of the default storage class.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

/// The storage class whose claims are served.
pub const CLASS: &str = "standard";
/// The name the storage class calls this program by.
pub const PROVISIONER: &str = "somastack.dev/folder";
const MADE_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Why volumes can no longer be served.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The kubeconfig cannot be used.
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The API server refused a request.
    #[error("the API server refused a request")]
    Client(#[from] kube::Error),
    /// A folder cannot be made or removed.
    #[error("cannot change {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A volume's description is not what the API expects.
    #[error("cannot describe a volume")]
    Describe(#[from] serde_json::Error),
}

/// Serves claims until the process ends; `folder` is where all nodes see the volumes.
pub async fn serve(kubeconfig: &Path, folder: &Path) -> Result<(), VolumeError> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    tokio::try_join!(serve_claims(&client, folder), serve_released(&client, folder))?;
    Ok(())
}

async fn serve_claims(client: &Client, folder: &Path) -> Result<(), VolumeError> {
    let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let mut changes = watcher(claims, watcher::Config::default()).default_backoff().applied_objects().boxed();
    loop {
        // A broken watch is taken up again after a pause that grows; only refused writes end the program.
        match changes.try_next().await {
            Ok(Some(claim)) => provision(client, folder, &claim).await?,
            Ok(None) => return Ok(()),
            Err(error) => eprintln!("watching claims: {error}"),
        }
    }
}

async fn serve_released(client: &Client, folder: &Path) -> Result<(), VolumeError> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let mut changes =
        watcher(volumes, watcher::Config::default()).default_backoff().applied_objects().boxed();
    loop {
        match changes.try_next().await {
            Ok(Some(volume)) => reclaim(client, folder, &volume).await?,
            Ok(None) => return Ok(()),
            Err(error) => eprintln!("watching volumes: {error}"),
        }
    }
}

/// Makes the volume a pending claim waits for.
async fn provision(client: &Client, folder: &Path, claim: &PersistentVolumeClaim) -> Result<(), VolumeError> {
    let Some((name, volume)) = volume_for(folder, claim)? else { return Ok(()) };
    let path = folder.join(&name);
    let error = |source| VolumeError::Folder { path: path.clone(), source };
    fs::create_dir_all(&path).map_err(error)?;
    // Pods of any user write to it; Kubernetes does not change the owner of such folders.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(error)?;
    match Api::all(client.clone()).create(&PostParams::default(), &volume).await {
        Ok(_) => eprintln!("made {name}"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The volume `claim` waits for, with its name; none when it waits for none of ours.
fn volume_for(
    folder: &Path,
    claim: &PersistentVolumeClaim,
) -> Result<Option<(String, PersistentVolume)>, serde_json::Error> {
    let (Some(spec), Some(uid)) = (&claim.spec, &claim.metadata.uid) else { return Ok(None) };
    let pending = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
    if !pending || spec.volume_name.is_some() || spec.storage_class_name.as_deref() != Some(CLASS) {
        return Ok(None);
    }
    let name = format!("pvc-{uid}");
    let volume = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {MADE_BY: PROVISIONER}},
        "spec": {
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "accessModes": spec.access_modes,
            "capacity": spec.resources.as_ref().and_then(|resources| resources.requests.clone()),
            "hostPath": {"path": folder.join(&name), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": uid,
            },
        },
    }))?;
    Ok(Some((name, volume)))
}

/// Removes a volume whose claim is gone, with its data.
async fn reclaim(client: &Client, folder: &Path, volume: &PersistentVolume) -> Result<(), VolumeError> {
    let Some(name) = reclaimable(volume) else { return Ok(()) };
    let path = folder.join(name);
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(VolumeError::Folder { path, source });
        }
        _ => {}
    }
    match Api::<PersistentVolume>::all(client.clone()).delete(name, &DeleteParams::default()).await {
        Ok(_) => eprintln!("removed {name}"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The name of a volume that was made here, has lost its claim, and is not to be kept.
fn reclaimable(volume: &PersistentVolume) -> Option<&str> {
    let made_by = volume.metadata.annotations.as_ref()?.get(MADE_BY)?;
    let policy = volume.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref()?;
    let phase = volume.status.as_ref()?.phase.as_deref()?;
    let ours = made_by == PROVISIONER && policy == "Delete" && phase == "Released";
    volume.metadata.name.as_deref().filter(|_| ours && volume.metadata.deletion_timestamp.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(class: &str, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "soma", "uid": "u1"},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn a_pending_claim_of_our_class_gets_a_volume_bound_to_it() {
        let (name, volume) = volume_for(Path::new("/v"), &claim(CLASS, "Pending")).unwrap().unwrap();
        let spec = volume.spec.unwrap();
        assert_eq!(name, "pvc-u1");
        assert_eq!(spec.host_path.unwrap().path, "/v/pvc-u1");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u1"));
    }

    #[test]
    fn bound_claims_and_other_classes_get_none() {
        for claim in [claim(CLASS, "Bound"), claim("fast", "Pending")] {
            assert_eq!(volume_for(Path::new("/v"), &claim).unwrap(), None);
        }
    }

    #[test]
    fn only_our_own_released_volumes_are_removed_and_retained_ones_never() {
        let volume = |by: &str, policy: &str, phase: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": {"name": "pv", "annotations": {MADE_BY: by}},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase},
            }))
            .unwrap()
        };
        assert_eq!(reclaimable(&volume(PROVISIONER, "Delete", "Released")), Some("pv"));
        assert_eq!(reclaimable(&volume(PROVISIONER, "Retain", "Released")), None);
        assert_eq!(reclaimable(&volume(PROVISIONER, "Delete", "Bound")), None);
        assert_eq!(reclaimable(&volume("other", "Delete", "Released")), None);
    }
}
