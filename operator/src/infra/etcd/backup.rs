//! How etcd is backed up: a snapshot that the operator's own program takes, because the image has no shell. Pure.

use serde_json::json;

use super::marker;
use super::validate::PORT;
use crate::infra::Site;
use crate::infra::backup::{self, Backup, Task, UID};
use crate::names::object;

const FOLDER: &str = "/etc/soma/etcd";

/// `image` is the operator's own.
pub fn task(site: &Site<'_>, backup: &Backup, image: &str) -> Task {
    let url = format!("http://{}:{PORT}", site.host(object::ETCD));
    let (keep, password) = (backup.keep.to_string(), format!("{FOLDER}/password"));
    let args: Vec<_> =
        ["--url", &url, "--password-file", &password].into_iter().chain(backup::end(&keep)).collect();
    // etcd gives a snapshot to root only.
    let root = json!({"name": "root", "secret": {
        "secretName": object::ETCD_CLUSTER,
        "defaultMode": 0o440,
        "items": [{"key": marker::ROOT, "path": "password"}],
    }});
    Task {
        component: object::ETCD,
        uid: UID,
        before: Vec::new(),
        container: backup::operator(image, object::ETCD, "etcd", &args, &[("root", FOLDER)]),
        volumes: vec![root],
        secret: Some((object::ETCD_CLUSTER, marker::ROOT)),
        account: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;

    #[test]
    fn the_backup_of_etcd_is_sound() {
        let infra = fixture::infra(json!({"etcd": {"managed": {"backup": {"schedule": "0 3 * * *"}}}}));
        let site = Site::new(&infra);
        let spec = infra.spec.etcd.as_ref().unwrap().managed.as_ref().unwrap().backup.as_ref();
        let backup = backup::validate(&site, object::ETCD, spec).unwrap().unwrap();
        let mut plan = Plan::default();
        backup::objects(&site, &backup, task(&site, &backup, "operator:1")).unwrap().plan(&mut plan);
        check::sound(&plan).unwrap();
    }
}
