use super::*;
use crate::infra::fixture;
use serde_json::{Value, json};

fn openfga(spec: Value, observed: &Observed) -> Result<OpenFga, Blocked> {
    validate(&Site::new(&fixture::infra(spec)), observed)
}

fn managed(spec: Value, observed: &Observed) -> Managed {
    match openfga(spec, observed).unwrap() {
        OpenFga::Managed(managed) => managed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_profile_decides_whether_it_runs_and_how_often() {
    let none = Observed::default();
    for spec in [
        json!({}),
        json!({"openfga": {"disabled": {}}}),
        json!({"profile": "ha", "openfga": {"disabled": {}}}),
    ] {
        assert!(matches!(openfga(spec, &none).unwrap(), OpenFga::Disabled));
    }
    for (spec, replicas) in [
        (json!({"openfga": {"managed": {}}}), 1),
        (json!({"profile": "ha"}), 2),
        (json!({"profile": "ha", "openfga": {"managed": {"replicas": 5}}}), 5),
    ] {
        assert_eq!(managed(spec, &none).replicas, replicas);
    }
}

#[test]
fn no_second_token_is_made_while_pods_know_the_first() {
    let spec = json!({"openfga": {"managed": {}}});
    let running = Observed { deployment: Some(Deployment::default()), ..Observed::default() };
    assert_eq!(openfga(spec.clone(), &running).unwrap_err().reason(), "TokenLost");
    let empty = Observed { kept: Some(fixture::secret(&[("store", "s")])), ..Observed::default() };
    assert_eq!(openfga(spec.clone(), &empty).unwrap_err().reason(), "TokenLost");
    let kept = fixture::secret(&[("token", "t"), ("store", "s")]);
    let kept = managed(spec, &Observed { kept: Some(kept), ..running }).kept.unwrap();
    assert_eq!((kept.token.as_str(), kept.store.as_deref(), kept.model), ("t", Some("s"), None));
}

#[test]
fn its_database_is_that_of_a_managed_postgres_once_it_is_there() {
    let spec = json!({"openfga": {"managed": {}}});
    assert_eq!(managed(spec.clone(), &Observed::default()).database, None);
    let data = [
        ("host", "pg"),
        ("port", "5432"),
        ("database", "openfga"),
        ("username", "openfga"),
        ("password", "p"),
    ];
    let observed = Observed { database: Some(fixture::secret(&data)), ..Observed::default() };
    let database = managed(spec.clone(), &observed).database.unwrap();
    assert_eq!(database.uri, "postgres://pg:5432/openfga?sslmode=prefer");
    assert_eq!(database.secret, "postgres-user-openfga");
    let hash = database.hash("t");
    assert_ne!(hash, database.hash("u"));
    let data = [
        ("host", "pg"),
        ("port", "5432"),
        ("database", "openfga"),
        ("username", "openfga"),
        ("password", "q"),
    ];
    let observed = Observed { database: Some(fixture::secret(&data)), ..Observed::default() };
    assert_ne!(
        managed(spec, &observed).database.unwrap().hash("t"),
        hash,
        "pods start again with the new password"
    );
}

#[test]
fn a_postgres_elsewhere_has_to_name_a_database() {
    let spec = json!({"openfga": {"managed": {}}, "postgres": {"external": {"secretRef": {"name": "pg"}}}});
    assert_eq!(openfga(spec.clone(), &Observed::default()).unwrap_err().reason(), "SecretMissing");
    let with = |more: &[(&str, &str)]| {
        let data = [&[("host", "h"), ("username", "u"), ("password", "p")], more].concat();
        let observed = Observed { database: Some(fixture::secret(&data)), ..Observed::default() };
        openfga(spec.clone(), &observed)
    };
    let refused = with(&[]).unwrap_err();
    assert_eq!(refused.reason(), "DatabaseMissing");
    assert!(refused.to_string().contains("\"openfga-database\""), "{refused}");
    let half = with(&[("openfga-database", "d"), ("openfga-username", "u")]).unwrap_err();
    assert_eq!(half.reason(), "SecretKeyMissing");
    let OpenFga::Managed(shared) = with(&[("openfga-database", "a b"), ("sslmode", "require")]).unwrap()
    else {
        panic!()
    };
    let database = shared.database.unwrap();
    assert_eq!(database.uri, "postgres://h:5432/a%20b?sslmode=require");
    assert_eq!((database.secret.as_str(), database.username_key), ("pg", "username"));
    let own = [("openfga-database", "d"), ("openfga-username", "u"), ("openfga-password", "p")];
    let OpenFga::Managed(own) = with(&own).unwrap() else { panic!() };
    assert_eq!(own.database.unwrap().password_key, "openfga-password");
}

#[test]
fn an_external_openfga_is_read_from_its_secret() {
    let with = |data: &[(&str, &str)]| {
        let observed = Observed { external: Some(fixture::secret(data)), ..Observed::default() };
        openfga(json!({"openfga": {"external": {"secretRef": {"name": "o"}}}}), &observed)
    };
    let OpenFga::External(openfga) = with(&[("url", "https://fga.example/x/"), ("token", "t")]).unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (openfga.url.as_str(), openfga.host.as_str(), openfga.port),
        ("https://fga.example/x", "fga.example", 443)
    );
    for wrong in ["openfga:8080", "ftp://a", "http://u:p@h", "http://h?x"] {
        assert_eq!(with(&[("url", wrong)]).unwrap_err().reason(), "SecretValueInvalid", "{wrong}");
    }
    assert_eq!(with(&[]).unwrap_err().reason(), "SecretKeyMissing");
}
