use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use soma_crds::SomaInfra;

use super::*;
use crate::infra::fixture;

fn blocked(infra: &SomaInfra, observed: &Observed) -> Blocked {
    validate(&Site::new(infra), observed).unwrap_err()
}

fn external() -> (SomaInfra, Observed) {
    let secret = fixture::secret(&[("host", "db.example.org"), ("username", "u"), ("password", "p")]);
    (fixture::external(), Observed { external: Some(secret), ..Default::default() })
}

#[test]
fn a_missing_secret_is_named_with_the_command_that_makes_it() {
    let (infra, observed) = external();
    let error = blocked(&infra, &Observed { external: None, ..observed });
    assert_eq!(error.reason(), "SecretMissing");
    assert!(
        error.to_string().contains("kubectl -n soma-infra create secret generic pg --from-literal=host=HOST")
    );
}

#[test]
fn a_missing_or_wrong_key_is_named() {
    let (infra, observed) = external();
    let with = |data: &[(&str, &str)]| {
        blocked(&infra, &Observed { external: Some(fixture::secret(data)), ..observed.clone() })
    };
    let no_password = with(&[("host", "h"), ("username", "u")]);
    assert_eq!(no_password.reason(), "SecretKeyMissing");
    assert!(no_password.to_string().contains(r#"-p '{"stringData":{"password":"VALUE"}}'"#), "{no_password}");
    let bad = [("port", "0"), ("port", "99999"), ("sslmode", "maybe"), ("host", "a\nb"), ("username", "")];
    for (key, value) in bad {
        let mut data = vec![("host", "h"), ("username", "u"), ("password", "p")];
        data.retain(|(k, _)| *k != key);
        data.push((key, value));
        let error = with(&data);
        assert_eq!(error.reason(), "SecretValueInvalid", "{key}={value}");
        assert!(error.to_string().contains(&format!("key `{key}`")) && !error.to_string().contains("99999"));
    }
}

#[test]
fn no_new_password_is_made_while_a_volume_exists() {
    let infra = fixture::managed();
    let live = Live { claims: [(0, PersistentVolumeClaim::default())].into(), ..Default::default() };
    let with_volume = Observed { live, ..Default::default() };
    let error = blocked(&infra, &with_volume);
    assert_eq!(error.reason(), "PasswordLost");
    assert!(error.to_string().contains("Restore the Secret"));
    let half = Observed { passwords: Some(fixture::secret(&[("somamemory", "x")])), ..Default::default() };
    assert_eq!(blocked(&infra, &half).reason(), "PasswordLost", "the superuser's key is gone");
    let kept = Observed {
        passwords: Some(fixture::secret(&[("password", "super"), (object::MEMORY_DATABASE, "mem")])),
        ..with_volume
    };
    assert!(validate(&Site::new(&infra), &kept).is_ok());
    assert!(validate(&Site::new(&infra), &Observed::default()).is_ok(), "a first install");
}

#[test]
fn what_somebody_wrote_into_a_service_s_secret_counts_when_clients_can_send_it() {
    let infra = fixture::managed();
    let with = |password: &str| Observed {
        passwords: Some(fixture::secret(&[("password", "super"), (object::MEMORY_DATABASE, "kept")])),
        users: [(object::MEMORY_DATABASE, fixture::secret(&[("password", password)]))].into(),
        ..Default::default()
    };
    let Ok(Postgres::Managed(managed)) = validate(&Site::new(&infra), &with("it's mine")) else { panic!() };
    assert_eq!(managed.given[object::MEMORY_DATABASE], "it's mine");
    assert_eq!(managed.kept.unwrap().services[object::MEMORY_DATABASE], "kept");
    let Ok(Postgres::Managed(managed)) = validate(&Site::new(&infra), &with("")) else { panic!() };
    assert!(managed.given.is_empty(), "deleted");
    let error = blocked(&infra, &with("pässword"));
    assert_eq!(error.reason(), "SecretValueInvalid");
    assert!(error.to_string().contains("patch secret postgres-user-memory"), "{error}");
}

#[test]
fn secrets_are_not_printed() {
    let (infra, observed) = external();
    let wanted = validate(&Site::new(&infra), &observed).unwrap();
    assert_eq!(format!("{wanted:?}"), "External(External(db.example.org:5432/somamemory))");
}
