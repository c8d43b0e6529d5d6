use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use serde_json::json;

use super::*;
use crate::infra::fixture;

fn blocked(infra: &SomaInfra, observed: &Observed) -> Blocked {
    validate(infra, observed).unwrap_err()
}

#[test]
fn a_missing_secret_is_named_with_the_command_that_makes_it() {
    let (infra, observed) = fixture::external();
    let error = blocked(&infra, &Observed { external: None, ..observed });
    assert_eq!(error.reason(), "SecretMissing");
    assert!(
        error.to_string().contains("kubectl -n soma-infra create secret generic pg --from-literal=host=HOST")
    );
}

#[test]
fn a_missing_or_wrong_key_is_named() {
    let (infra, observed) = fixture::external();
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
    let with_volume = Observed { claim: Some(PersistentVolumeClaim::default()), ..fixture::observed() };
    let error = blocked(&infra, &with_volume);
    assert_eq!(error.reason(), "PasswordLost");
    assert!(error.to_string().contains("Restore the Secret"));
    let half = Observed { passwords: Some(fixture::secret(&[("password", "x")])), ..fixture::observed() };
    assert_eq!(blocked(&infra, &half).reason(), "PasswordLost", "a key is gone");
    let kept = Observed { passwords: Some(fixture::passwords()), ..with_volume };
    assert!(validate(&infra, &kept).is_ok());
    assert!(validate(&infra, &fixture::observed()).is_ok(), "a first install");
}

#[test]
fn the_older_of_two_has_the_namespace() {
    let error =
        blocked(&fixture::managed(), &Observed { elder: Some("first".into()), ..fixture::observed() });
    assert_eq!(error.reason(), "NamespaceTaken");
    assert!(error.to_string().contains("first"));
}

#[test]
fn a_foreign_service_is_left_alone_and_an_absent_namespace_is_named() {
    let infra = fixture::infra(json!({"aliasNamespaces": ["soma", "gone", "soma-infra"]}));
    let foreign =
        Observed { aliases: [("soma".to_owned(), Some(Service::default()))].into(), ..Default::default() };
    let wanted = validate(&infra, &foreign).unwrap();
    assert!(wanted.aliases.unwrap().namespaces.is_empty());
    let note = wanted.alias_note.unwrap();
    assert!(
        note.contains("Service soma/postgres belongs to somebody else")
            && note.contains("namespace gone does not exist")
    );
}

#[test]
fn secrets_are_not_printed() {
    let (infra, observed) = fixture::external();
    let wanted = validate(&infra, &observed).unwrap();
    assert_eq!(format!("{:?}", wanted.postgres), "External(External(db.example.org:5432/somamemory))");
}
