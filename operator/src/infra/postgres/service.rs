//! Which service has which database, and what is missing of that. Pure.

use std::collections::BTreeMap;

use super::scram;
use crate::names::object;

/// A service with a database of its own, and a role of the same name that may use only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of the service, and of its Secret.
    pub name: &'static str,
    /// Name of its database, and of the role that owns it.
    pub database: &'static str,
}

/// The memory service, whose role `postgres-conn` tells.
pub const MEMORY: Service = Service { name: "memory", database: object::MEMORY_DATABASE };

/// Every service with a database.
pub const SERVICES: [Service; 4] = [
    MEMORY,
    Service { name: "agent", database: "somaagent01" },
    Service { name: "openfga", database: "openfga" },
    Service { name: "temporal", database: "temporal" },
];

/// Databases that Postgres itself has and lets everybody in; roles of services have no business there.
const COMMON: [&str; 2] = ["postgres", "template1"];

impl Service {
    /// Name of the Secret a service finds its database with.
    pub fn secret_name(self) -> String {
        format!("postgres-user-{}", self.name)
    }
}

/// A role as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// It can log in and has no right over the whole server.
    pub plain: bool,
    /// What Postgres keeps of its password.
    pub verifier: Option<String>,
}

/// A database as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub owner: String,
    /// Every role may connect, or make temporary tables.
    pub open: bool,
}

/// What Postgres holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub version: String,
    pub roles: BTreeMap<String, Role>,
    pub databases: BTreeMap<String, Database>,
    /// It lets base backups in, from wherever pods are.
    pub admits_backups: bool,
}

/// One change. Each can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    CreateRole(Service),
    /// Its rights, or its password.
    AlterRole(Service),
    CreateDatabase(Service),
    /// Keeps other roles out of a database.
    Close(&'static str),
    /// Schema `public`, then the database itself: its owner says that all before it is done.
    HandOver(Service),
    /// Lets base backups in.
    AdmitBackups,
}

/// What differs from what the services need, in the order in which it is put right. `passwords` are by database.
pub fn steps(seen: &Seen, passwords: &BTreeMap<&'static str, String>, backed_up: bool) -> Vec<Step> {
    let open = |name: &str| seen.databases.get(name).is_some_and(|database| database.open);
    let mut steps: Vec<_> = COMMON.into_iter().filter(|name| open(name)).map(Step::Close).collect();
    if backed_up && !seen.admits_backups {
        steps.push(Step::AdmitBackups);
    }
    for service in SERVICES {
        let name = service.database;
        let knows = |role: &Role| {
            let password = passwords.get(name).map_or("", String::as_str);
            role.verifier.as_ref().is_some_and(|verifier| scram::verifies(verifier, password))
        };
        match seen.roles.get(name) {
            None => steps.push(Step::CreateRole(service)),
            Some(role) if !role.plain || !knows(role) => steps.push(Step::AlterRole(service)),
            Some(_) => {}
        }
        let database = seen.databases.get(name);
        if database.is_none() {
            steps.push(Step::CreateDatabase(service));
        }
        if database.is_none_or(|database| database.open) {
            steps.push(Step::Close(name));
        }
        if database.is_none_or(|database| database.owner != name) {
            steps.push(Step::HandOver(service));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> BTreeMap<&'static str, String> {
        SERVICES.iter().map(|service| (service.database, format!("{}-password", service.name))).collect()
    }

    fn settled() -> Seen {
        let role = |service: &Service| Role {
            plain: true,
            verifier: Some(scram::verifier(&passwords()[service.database])),
        };
        let owner =
            |name: &str, owner: &str| (name.to_owned(), Database { owner: owner.into(), open: false });
        let own = SERVICES.iter().map(|s| owner(s.database, s.database));
        Seen {
            version: "15".into(),
            roles: SERVICES.iter().map(|s| (s.database.to_owned(), role(s))).collect(),
            databases: own.chain(COMMON.map(|name| owner(name, "postgres"))).collect(),
            admits_backups: false,
        }
    }

    #[test]
    fn each_difference_has_its_step_and_none_has_none() {
        assert_eq!(steps(&settled(), &passwords(), false), []);
        assert_eq!(steps(&settled(), &passwords(), true), [Step::AdmitBackups]);
        let change = |change: &dyn Fn(&mut Seen)| {
            let mut seen = settled();
            change(&mut seen);
            steps(&seen, &passwords(), false)
        };
        let agent = SERVICES[1];
        let role = |seen: &mut Seen| seen.roles.get_mut(agent.database).cloned().unwrap();
        assert_eq!(change(&|s| drop(s.roles.remove(agent.database))), [Step::CreateRole(agent)]);
        let set = |seen: &mut Seen, role: Role| drop(seen.roles.insert(agent.database.into(), role));
        assert_eq!(
            change(&|s| {
                let role = Role { plain: false, ..role(s) };
                set(s, role);
            }),
            [Step::AlterRole(agent)],
            "somebody made it a superuser"
        );
        for verifier in [None, Some("md5…".to_owned()), Some(scram::verifier("older"))] {
            let steps = change(&|s| {
                let role = Role { verifier: verifier.clone(), ..role(s) };
                set(s, role);
            });
            assert_eq!(steps, [Step::AlterRole(agent)], "{verifier:?}");
        }
        let open = |name: &'static str| {
            change(&|s| s.databases.get_mut(name).into_iter().for_each(|database| database.open = true))
        };
        assert_eq!(open("template1"), [Step::Close("template1")]);
        assert_eq!(open("temporal"), [Step::Close("temporal")]);
        assert_eq!(
            change(&|s| drop(s.databases.remove("openfga"))),
            [Step::CreateDatabase(SERVICES[2]), Step::Close("openfga"), Step::HandOver(SERVICES[2])]
        );
        let half = |s: &mut Seen| s.databases.get_mut("openfga").unwrap().owner = "postgres".into();
        assert_eq!(change(&half), [Step::HandOver(SERVICES[2])], "it ended before the last step");
    }

    #[test]
    fn an_empty_server_gets_a_role_before_its_database() {
        let all = steps(&Seen::default(), &passwords(), false);
        assert_eq!(all.len(), 4 * SERVICES.len());
        assert_eq!(all[..2], [Step::CreateRole(MEMORY), Step::CreateDatabase(MEMORY)]);
    }
}
