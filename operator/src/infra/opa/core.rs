//! Soma's own policies: the one list of them, and whether they pass their tests.

use std::sync::LazyLock;

use serde_json::json;

use super::engine::Policies;
use super::rego::{File, Module, RegoError};

/// Decides; part of every bundle.
const POLICY: &str = include_str!("../../../../config/policies/soma.rego");
const POLICY_TESTS: &str = include_str!("../../../../config/policies/soma_test.rego");
/// What OPA's own API lets anyone do. OPA reads it from a file at its start, so that it holds before there is a bundle.
pub const AUTHZ: &str = include_str!("../../../../config/policies/authz.rego");
const AUTHZ_TESTS: &str = include_str!("../../../../config/policies/authz_test.rego");

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

/// What decides, without tests.
pub fn files() -> Vec<File> {
    vec![file("soma/soma.rego", POLICY)]
}

/// Whether the policies of this release pass their tests; that does not change while the process lives.
pub fn verified() -> &'static Result<(), RegoError> {
    static VERIFIED: LazyLock<Result<(), RegoError>> = LazyLock::new(verify);
    &VERIFIED
}

fn verify() -> Result<(), RegoError> {
    let mut all = files();
    all.extend([
        file("soma/soma_test.rego", POLICY_TESTS),
        file("authz.rego", AUTHZ),
        file("authz_test.rego", AUTHZ_TESTS),
    ]);
    let mut policies = Policies::load(&all, &json!({}))?;
    for file in &all {
        let module = Module::parse(file)?;
        module.check_calls(file)?;
        if file.is_test() {
            policies.test(file, &module)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_policies_pass_their_tests() {
        assert_eq!(*super::verified(), Ok(()));
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/policies");
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["authz.rego", "authz_test.rego", "soma.rego", "soma_test.rego"]);
    }
}
