//! The very scripts of the Jobs, against a real Postgres: taken, checked, kept, and restored.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::jiff::Timestamp;
use soma_testenv::{Postgres, RunDir, free_port};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::{address, enter, passwords, run, server};
use crate::backup::{Folder, Record};
use crate::infra::postgres::backup::TAKE;
use crate::infra::postgres::database::provision;
use crate::infra::postgres::restore::RESTORE;

/// What a Job's pod has: a user, programs, folders.
struct Pod {
    dir: RunDir,
    programs: String,
    user: (u32, u32),
    port: u16,
}

impl Pod {
    async fn new(server: &Postgres) -> Self {
        let dir = RunDir::new("backup").unwrap();
        let ask = async |sql: &str| server.psql(sql).await.unwrap().trim().to_owned();
        let programs = ask("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await;
        let owner = fs::metadata(ask("SHOW data_directory").await).unwrap();
        let pod = Self { dir, programs, user: (owner.uid(), owner.gid()), port: server.port() };
        for name in ["backups", "tmp", "volume"] {
            pod.own(&pod.path(name));
        }
        fs::write(pod.path("password"), "super\n").unwrap();
        pod
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder of the user's.
    fn own(&self, path: &Path) {
        fs::create_dir_all(path).unwrap();
        chown(path, Some(self.user.0), Some(self.user.1)).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", self.programs));
        command.uid(self.user.0).gid(self.user.1).current_dir("/").env("TMPDIR", self.path("tmp"));
        command
    }

    fn take(&self, folder: &Folder<'_>, verify: bool, now: &str) -> (PathBuf, Output) {
        let partial = folder.begin(time(now)).unwrap();
        self.own(&partial);
        fs::write(self.path("note"), partial.to_str().unwrap()).unwrap();
        let mut script = self.command("/bin/sh");
        script.args(["-c", TAKE]).env("VERIFY", verify.to_string());
        script.env("NOTE", self.path("note")).env("PASSWORD_FILE", self.path("password"));
        script.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        (partial, script.output().unwrap())
    }

    fn restore(&self, name: &str) -> Output {
        let mut script = self.command("/bin/sh");
        script.args(["-c", RESTORE]).env("BACKUP", name).env("FOLDER", self.path("backups"));
        script.env("DATA", self.path("volume").join("pgdata")).output().unwrap()
    }

    /// Starts or stops a server on what was restored.
    fn server(&self, args: &[&str]) {
        let data = self.path("volume").join("pgdata");
        let mut control = self.command("pg_ctl");
        control.args([
            "-w",
            "-s",
            "-D",
            data.to_str().unwrap(),
            "-l",
            self.path("tmp/log").to_str().unwrap(),
        ]);
        assert!(control.args(args).status().unwrap().success());
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn refused(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(says), "{said}");
}

#[tokio::test]
async fn a_backup_is_taken_checked_and_restored_with_every_row() {
    let server = server().await;
    let passwords = passwords();
    provision(&address(&server), &passwords, true).await.unwrap();
    let rules = fs::read_to_string(server.psql("SHOW hba_file").await.unwrap().trim()).unwrap();
    provision(&address(&server), &passwords, true).await.unwrap();
    let again = fs::read_to_string(server.psql("SHOW hba_file").await.unwrap().trim()).unwrap();
    assert_eq!(again, rules, "who may take a backup is written down once");
    let own = &passwords.services["somamemory"];
    let mut memory = enter(&server, "somamemory", own, "somamemory").await.unwrap();
    run(&mut memory, "CREATE TABLE rows AS SELECT n, md5(n::text) AS text FROM generate_series(1, 50000) n")
        .await
        .unwrap();
    let sum = "SELECT md5(string_agg(n || text, ',' ORDER BY n)) FROM rows";
    let before: String = sqlx::query_scalar(sum).fetch_one(&mut memory).await.unwrap();

    let pod = Pod::new(&server).await;
    let backups = pod.path("backups");
    let folder = Folder { path: &backups, component: "postgres" };
    let (partial, output) = pod.take(&folder, true, "2026-03-01T02:30:00Z");
    succeeded(&output);
    let record = folder.keep(&partial, 1, time("2026-03-01T02:31:00Z")).unwrap();
    let Record { name, files, facts, .. } = &record;
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["backup_manifest", "base.tar.gz", "pg_wal.tar.gz"]);
    assert!(facts["restored"].starts_with("6 databases with "), "{facts:?}");
    assert!(facts["checked"].starts_with("pg_verifybackup"), "{facts:?}");

    // Lost: later rows are not in the backup, and what is there does not change it.
    run(&mut memory, "DELETE FROM rows").await.unwrap();
    succeeded(&pod.restore(name));
    let port = free_port().unwrap();
    let options = format!("-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=");
    pod.server(&["start", "-o", &options]);
    let at = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).ssl_mode(PgSslMode::Disable);
    let at = at.username("somamemory").password(own).database("somamemory");
    let mut restored = at.connect().await.unwrap();
    let after: String = sqlx::query_scalar(sum).fetch_one(&mut restored).await.unwrap();
    assert_eq!(after, before);
    restored.close().await.unwrap();
    pod.server(&["stop", "-m", "fast"]);

    // Data that is there is not touched, whoever asks.
    refused(&pod.restore(name), "holds data already");
    refused(&pod.restore("20260101T000000Z"), &format!("there are: {name}"));
    // Unless an attempt was interrupted.
    let begun = pod.path("volume").join("pgdata.restoring");
    fs::write(&begun, "").unwrap();
    chown(&begun, Some(pod.user.0), Some(pod.user.1)).unwrap();
    succeeded(&pod.restore(name));
}

#[tokio::test]
async fn what_fails_is_no_backup_and_leaves_the_good_one() {
    let server = server().await;
    provision(&address(&server), &passwords(), true).await.unwrap();
    let pod = Pod::new(&server).await;
    let backups = pod.path("backups");
    let folder = Folder { path: &backups, component: "postgres" };
    let (partial, output) = pod.take(&folder, false, "2026-03-01T02:30:00Z");
    succeeded(&output);
    let good = folder.keep(&partial, 1, time("2026-03-01T02:31:00Z")).unwrap();
    assert!(!good.facts.contains_key("restored"), "not asked for");

    fs::write(pod.path("password"), "wrong").unwrap();
    let (partial, output) = pod.take(&folder, true, "2026-03-02T02:30:00Z");
    refused(&output, "password authentication failed");
    assert!(!partial.exists() && backups.join(&good.name).join("record.json").exists());

    // A backup that was damaged since is not restored as if it were good.
    let manifest = backups.join(&good.name).join("backup_manifest");
    let text = fs::read_to_string(&manifest).unwrap().replacen("\"Size\": ", "\"Size\": 1", 3);
    fs::write(&manifest, text).unwrap();
    refused(&pod.restore(&good.name), "");
    assert!(pod.path("volume").join("pgdata.restoring").exists(), "the next attempt begins anew");
}
