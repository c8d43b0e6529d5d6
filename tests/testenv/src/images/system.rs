//! What images have of a system: accounts, a shell, trusted authorities, a folder for temporary files.

use std::path::Path;

use crate::images::layer::Layer;

/// The static busybox, here and in images.
pub const BUSYBOX: &str = "/bin/busybox";
/// The certificate authorities programs trust; TLS clients refuse to start without any.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The commands every shell has beside it.
const APPLETS: [&str; 12] =
    ["sh", "cat", "chmod", "cp", "env", "grep", "id", "ls", "mkdir", "mv", "rm", "sleep"];

/// A user of an image besides root, and its group of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub name: &'static str,
    pub user: u64,
    pub group: u64,
    pub home: &'static str,
}

impl Layer {
    /// The files that know root and `accounts`, and `/tmp`. The logins are those of an image with a shell.
    #[must_use]
    pub fn accounts(self, accounts: &[Account]) -> Self {
        let users: Vec<String> = accounts
            .iter()
            .map(|Account { name, user, group, home }| format!("{name}:x:{user}:{group}::{home}:/bin/sh\n"))
            .collect();
        let groups: Vec<String> =
            accounts.iter().map(|Account { name, group, .. }| format!("{name}:x:{group}:\n")).collect();
        let (users, groups) = (users.concat(), groups.concat());
        self.text("/etc/passwd", &format!("root:x:0:0:root:/root:/bin/sh\n{users}"), 0o644)
            .text("/etc/group", &format!("root:x:0:\n{groups}"), 0o644)
            .folder("/tmp", 0o1777, 0)
    }

    /// A shell, its usual commands and `more` of them.
    #[must_use]
    pub fn shell(self, more: &[&str]) -> Self {
        let layer = self.busybox();
        APPLETS
            .iter()
            .chain(more)
            .fold(layer, |layer, applet| layer.link(&format!("/bin/{applet}"), "busybox"))
    }

    /// Only the program that is a shell and its commands.
    #[must_use]
    pub fn busybox(self) -> Self {
        self.file(BUSYBOX, Path::new(BUSYBOX), 0o755)
    }

    /// The authorities that connections by TLS are checked against.
    #[must_use]
    pub fn authorities(self) -> Self {
        self.file(AUTHORITIES, Path::new(AUTHORITIES), 0o644)
    }
}
