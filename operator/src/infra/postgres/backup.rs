//! How Postgres is backed up: a base backup, extracted and checked, and started once where the manifest asks for that. Pure.

use serde_json::{Value, json};

use super::build::{PORT, UID};
use super::validate::Managed;
use crate::infra::Site;
use crate::infra::backup::{self, Backup, FOLDER, Task, VOLUME};
use crate::names::object;
use crate::workload::Resources;

/// What runs in the image of the server itself.
pub const TAKE: &str = include_str!("backup.sh");

/// `image` is the operator's own.
pub fn task(site: &Site<'_>, postgres: &Managed, backup: &Backup, image: &str) -> Task {
    let mounts =
        [(VOLUME, FOLDER), ("run", "/run/soma"), ("superuser", "/etc/soma/superuser"), ("tmp", "/tmp")];
    let resources = Resources::of("100m", "256Mi", "1Gi");
    let command = ["/bin/sh", "-c", TAKE];
    let mut take = backup::container("take", &postgres.member.image, &command, &resources, &mounts);
    take["env"] = json!([
        {"name": "PGHOST", "value": site.host(object::POSTGRES)},
        {"name": "PGPORT", "value": PORT.to_string()},
        {"name": "PGUSER", "value": "postgres"},
        {"name": "NOTE", "value": "/run/soma/partial"},
        {"name": "PASSWORD_FILE", "value": "/etc/soma/superuser/password"},
        {"name": "VERIFY", "value": backup.verify.to_string()},
    ]);
    Task {
        component: object::POSTGRES,
        uid: UID,
        before: vec![backup::begin(image, object::POSTGRES, "run"), take],
        container: backup::keep(image, object::POSTGRES, "run", backup.keep),
        volumes: vec![
            superuser(),
            json!({"name": "run", "emptyDir": {}}),
            json!({"name": "tmp", "emptyDir": {}}),
        ],
        secret: Some((object::POSTGRES_SECRET, "password")),
        account: None,
    }
}

/// The volume with the superuser's password.
pub fn superuser() -> Value {
    json!({"name": "superuser", "secret": {
        "secretName": object::POSTGRES_SECRET,
        "defaultMode": 0o440,
        "items": [{"key": "password", "path": "password"}],
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;
    use crate::infra::postgres::validate::{Observed, Postgres, validate};

    #[test]
    fn the_backup_of_postgres_is_sound() {
        let infra = fixture::infra(json!({"postgres": {"managed": {"backup": {
            "schedule": "30 2 * * *", "keep": 3, "storage": {"size": "7Gi", "storageClassName": "slow"},
        }}}}));
        let site = Site::new(&infra);
        let Ok(Postgres::Managed(managed)) = validate(&site, &Observed::default()) else { panic!() };
        let wanted = managed.backup.as_ref().unwrap();
        let objects = backup::objects(&site, wanted, task(&site, &managed, wanted, "operator:1")).unwrap();
        let mut plan = Plan::default();
        objects.plan(&mut plan);
        check::sound(&plan).unwrap();
        let cron = serde_json::to_value(&objects.cron).unwrap();
        assert_eq!(cron["spec"]["schedule"], "30 2 * * *");
        assert_eq!(cron["spec"]["concurrencyPolicy"], "Forbid");
        let labels = &cron["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/name"], "postgres-backup", "no Service leads to it");
        let claim = serde_json::to_value(&objects.claim).unwrap();
        assert_eq!(claim["metadata"]["ownerReferences"], json!(null), "it outlives the SomaInfra");
        assert_eq!(claim["spec"]["storageClassName"], "slow");
        assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "7Gi");
    }
}
