//! Machine code that is not what a control plane has signed never runs: it is fetched again, compiled
//! again, or refused with the reason.

#[path = "../../host/src/runtime/guests.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use the rest")]
mod guests;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use eve_host::skills::artifact::{Signer, Statement, pack};
use eve_tests::{Database, Ended, Eve, Platform, Process, wait_for};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

/// A platform with the skills `one` and `other`, its key, and a worker's own folder of machine code.
struct Bench {
    platform: Platform,
    signer: Signer,
    cache: TempDir,
    database: Database,
}

impl Bench {
    async fn set_up() -> anyhow::Result<Bench> {
        let database = Database::fresh().await?;
        let signer = Signer::generate();
        let eve = with_key(Eve::on(&database)?, &signer);
        let platform = Platform::of(eve, database.url(), &[]).await?;
        let bench = Bench { platform, signer, cache: private_folder()?, database };
        bench.push("one", &guests::noop()).await?;
        bench.push("other", &guests::returning_data("{}")).await?;
        Ok(bench)
    }

    async fn push(&self, name: &str, wasm: &[u8]) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(format!("{name}.wasm"));
        fs::write(&path, wasm)?;
        self.platform.eve().json(["skill", "push", &path.to_string_lossy()]).await?;
        Ok(())
    }

    /// A worker with a folder of its own: the control plane's is out of its reach.
    fn worker(&self) -> anyhow::Result<Process> {
        worker(self.platform.eve(), self.cache.path())
    }

    /// How a run ends, of which there may be so many attempts.
    async fn run(&self, skill: &str, attempts: u8) -> anyhow::Result<Ended> {
        let request = json!({ "skill": skill, "max_attempts": attempts });
        let id = self.platform.create(request).await?;
        Ok(self.platform.end_of(id).await)
    }

    /// Why a request failed.
    async fn reason(&self) -> String {
        let last = "SELECT error_message FROM eve.orchestration_results
                     WHERE status = 'failed' ORDER BY request_id DESC LIMIT 1";
        sqlx::query_scalar(last).fetch_one(self.platform.pool()).await.expect("a failure")
    }

    /// The file that a worker keeps a skill's machine code in.
    async fn file(&self, skill: &str) -> anyhow::Result<PathBuf> {
        let name: String = sqlx::query_scalar(
            "SELECT encode(a.sha256, 'hex')
               FROM eve.artifacts a JOIN eve.skills s ON s.active_version = a.version_id
              WHERE s.name = $1",
        )
        .bind(skill)
        .fetch_one(self.platform.pool())
        .await?;
        Ok(self.cache.path().join(name))
    }

    /// Changes the machine code of `one` in the database: `set` may name that of `other` as `o`.
    async fn tamper(&self, set: &str) -> anyhow::Result<()> {
        let statement = format!(
            "UPDATE eve.artifacts a SET {set}
               FROM eve.skills s, eve.artifacts o JOIN eve.skills t ON t.active_version = o.version_id
              WHERE s.active_version = a.version_id AND s.name = 'one' AND t.name = 'other'"
        );
        let done = sqlx::query(AssertSqlSafe(statement)).execute(self.platform.pool()).await?;
        anyhow::ensure!(done.rows_affected() == 1, "{set}");
        Ok(())
    }

    fn server_log(&mut self) -> String {
        self.platform.servers()[0].process().log()
    }
}

fn with_key(eve: Eve, signer: &Signer) -> Eve {
    eve.env("EVE_SIGNING_KEY", signer.seed()).env("EVE_VERIFY_KEYS", signer.public_key())
}

/// A folder that a worker accepts.
fn private_folder() -> anyhow::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700))?;
    Ok(folder)
}

fn worker(eve: &Eve, cache: &Path) -> anyhow::Result<Process> {
    let cache = cache.to_string_lossy();
    eve.start(["worker", "--type", "general", "--slots", "1", "--cache-dir", &cache])
}

/// Puts other bytes into a file, as somebody who has got the worker's rights could.
fn overwrite(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::set_permissions(file, Permissions::from_mode(0o600))?;
    fs::write(file, bytes)?;
    fs::set_permissions(file, Permissions::from_mode(0o400))?;
    Ok(())
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// What somebody has done to a worker's files: they are thrown away and fetched again.
#[tokio::test]
async fn a_file_that_was_changed_is_fetched_again() -> anyhow::Result<()> {
    const NOBODY: u32 = 65_534;
    let bench = Bench::set_up().await?;
    let mut worker = bench.worker()?;
    for skill in ["one", "other"] {
        assert_eq!(bench.run(skill, 1).await?.code(), "completed");
    }
    let (file, others) = (bench.file("one").await?, bench.file("other").await?);
    let (good, other) = (fs::read(&file)?, fs::read(&others)?);
    let elsewhere = bench.cache.path().join("elsewhere");
    fs::write(&elsewhere, &good)?;
    let link = || -> anyhow::Result<()> {
        fs::remove_file(&file)?;
        Ok(symlink(&elsewhere, &file)?)
    };
    let give_away = || -> anyhow::Result<()> {
        match chown(&file, Some(NOBODY), None) {
            Ok(()) => Ok(()),
            Err(_) => {
                eprintln!("SKIPPED: a foreign owner: this takes root; a flipped byte instead");
                overwrite(&file, &flipped(&good))
            }
        }
    };
    let open = || Ok(fs::set_permissions(&file, Permissions::from_mode(0o644))?);
    let cases: [(&str, &dyn Fn() -> anyhow::Result<()>); 6] = [
        ("a flipped byte", &|| overwrite(&file, &flipped(&good))),
        ("another version's code", &|| overwrite(&file, &other)),
        ("a part of it", &|| overwrite(&file, &good[..good.len() / 2])),
        ("a link to the very same code", &link),
        ("a foreign owner", &give_away),
        ("a file that can be written", &open),
    ];
    for (what, tamper) in cases {
        worker.kill();
        tamper()?;
        worker = bench.worker()?;
        assert_eq!(bench.run("one", 1).await?.code(), "completed", "{what}: {}", worker.log());
        assert!(worker.log().contains("cannot be trusted"), "{what}: {}", worker.log());
        let kept = fs::symlink_metadata(&file)?;
        assert!(kept.is_file() && kept.permissions().mode() & 0o777 == 0o400, "{what}: {kept:?}");
        assert!(fs::read(&file)? == good, "{what}: the signed bytes are there again");
    }
    Ok(())
}

/// What somebody has done to the database: refused, reported, and compiled again by the control plane.
#[tokio::test]
async fn stored_machine_code_that_was_changed_is_refused_and_compiled_again() -> anyhow::Result<()>
{
    let mut bench = Bench::set_up().await?;
    let file = bench.file("one").await?;
    let mut first = bench.worker()?;
    assert_eq!(bench.run("one", 1).await?.code(), "completed");
    let good = fs::read(&file)?;
    first.kill();

    // Signed by whom nobody knows; and by our own key, but for another build of the engine.
    let wasm = guests::noop();
    let engine: String = sqlx::query_scalar("SELECT DISTINCT fingerprint FROM eve.artifacts")
        .fetch_one(bench.platform.pool())
        .await?;
    let signature = |signer: &Signer, engine: &str| {
        let claim = signer.sign(Statement::about(&good, &wasm, engine));
        let digits: String = claim.signature.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("signature = decode('{digits}', 'hex')")
    };
    let strangers = signature(&Signer::generate(), &engine);
    let another_builds = signature(&bench.signer, &format!("{engine} of yesterday"));
    let evil: String = pack(&flipped(&good))?.iter().map(|byte| format!("{byte:02x}")).collect();
    let evil = format!("bytes = decode('{evil}', 'hex')");
    let evil_digest = format!("{evil}, sha256 = sha256('\\x00')");
    for (what, set) in [
        ("a flipped byte", "bytes = set_byte(a.bytes, 99, get_byte(a.bytes, 99) # 1)"),
        ("a part of it", "bytes = substr(a.bytes, 1, length(a.bytes) / 2)"),
        ("other code", &evil),
        ("other code and another digest", &evil_digest),
        ("another length", "length = a.length - 1"),
        (
            "a flipped signature",
            "signature = set_byte(a.signature, 9, get_byte(a.signature, 9) # 1)",
        ),
        ("another version's code", "bytes = o.bytes, length = o.length, sha256 = o.sha256"),
        (
            "all of another version's",
            "bytes = o.bytes, length = o.length, sha256 = o.sha256, signature = o.signature",
        ),
        ("a key that nobody knows", &strangers),
        ("another build's", &another_builds),
    ] {
        let _ = fs::remove_file(&file);
        bench.tamper(set).await?;
        let mut worker = bench.worker()?;
        let ended = bench.run("one", 1).await?;
        assert_eq!(ended.code(), "skill_unloadable", "{what}: {ended:?}");
        assert!(bench.reason().await.contains("was refused"), "{what}: {}", bench.reason().await);
        let said = worker.log();
        assert!(said.contains("machine code in the database cannot be trusted"), "{what}: {said}");
        // Whoever tries again finds that it was mended.
        let ended = bench.run("one", 25).await?;
        assert_eq!(ended.code(), "completed", "{what}: {ended:?}");
        assert!(fs::read(&file)? == good, "{what}: it is what it was");
        let mended = bench.server_log().matches("compiling it again").count();
        assert!(mended > 0, "{what}: {}", bench.server_log());
        worker.kill();
    }
    bench
        .platform
        .until("the marks to be taken away", "SELECT count(refused_at) = 0 FROM eve.artifacts")
        .await;
    Ok(())
}

/// A worker that was set up with another key runs nothing, and it is not the machine code's fault.
#[tokio::test]
async fn a_worker_with_a_wrong_key_runs_nothing() -> anyhow::Result<()> {
    let mut bench = Bench::set_up().await?;
    let before: Vec<u8> = sqlx::query_scalar(
        "SELECT sha256(string_agg(signature, '' ORDER BY version_id)) FROM eve.artifacts",
    )
    .fetch_one(bench.platform.pool())
    .await?;
    let stranger = with_key(Eve::on(&bench.database)?, &Signer::generate());
    let _worker = worker(&stranger, bench.cache.path())?;
    assert_eq!(bench.run("one", 1).await?.code(), "skill_unloadable");
    assert_eq!(fs::read_dir(bench.cache.path())?.count(), 0, "nothing of it is kept");
    wait_for("the control plane to say whose fault it is", async || {
        bench.server_log().contains("does its EVE_VERIFY_KEYS").then_some(())
    })
    .await;
    bench
        .platform
        .until("the mark to be taken away", "SELECT count(refused_at) = 0 FROM eve.artifacts")
        .await;
    let after: Vec<u8> = sqlx::query_scalar(
        "SELECT sha256(string_agg(signature, '' ORDER BY version_id)) FROM eve.artifacts",
    )
    .fetch_one(bench.platform.pool())
    .await?;
    assert_eq!(before, after, "nothing was compiled again");
    Ok(())
}

/// The signing key is changed: a control plane with the new one compiles everything anew when it starts.
#[tokio::test]
async fn a_rotated_key_takes_everything_along() -> anyhow::Result<()> {
    let mut bench = Bench::set_up().await?;
    let new = Signer::generate();
    let both = format!("{},{}", bench.signer.public_key(), new.public_key());
    // First the workers, which accept both for a while.
    let rotating = Eve::on(&bench.database)?.env("EVE_VERIFY_KEYS", both);
    let mut worker_of_both = worker(&rotating, bench.cache.path())?;
    assert_eq!(bench.run("one", 1).await?.code(), "completed");
    // Then the control plane. Nobody is interrupted.
    let rotated = with_key(Eve::on(&bench.database)?, &new);
    bench.platform.servers()[0].process().kill();
    let mut server = rotated.serve().await?;
    wait_for("everything to be compiled anew", async || {
        server.process().log().contains("compiled stored skills").then_some(())
    })
    .await;
    let create = async |skill: &str| -> anyhow::Result<Ended> {
        let ids = bench.platform.flood("dev", 1, skill, json!({})).await?;
        Ok(bench.platform.end_of(ids[0]).await)
    };
    assert_eq!(create("other").await?.code(), "completed");
    worker_of_both.kill();
    // At last the old key is accepted no more.
    let folder = private_folder()?;
    let mut last = worker(&rotated, folder.path())?;
    for skill in ["one", "other"] {
        assert_eq!(create(skill).await?.code(), "completed", "{skill}: {}", last.log());
    }
    last.kill();
    // And whoever was forgotten runs nothing, whatever it has on its disk.
    let _forgotten = bench.worker()?;
    let ids = bench.platform.flood("dev", 1, "one", json!({})).await?;
    wait_for("a failed attempt", async || {
        let failed: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM eve.attempts WHERE request_id = $1 AND code = 'skill_unloadable'",
        )
        .bind(ids[0])
        .fetch_one(bench.platform.pool())
        .await
        .ok()?;
        (failed > 0).then_some(())
    })
    .await;
    Ok(())
}

/// A version that was not active when its engine was replaced is compiled when it is activated.
#[tokio::test]
async fn an_old_version_is_compiled_when_it_is_activated() -> anyhow::Result<()> {
    let bench = Bench::set_up().await?;
    let _worker = bench.worker()?;
    let first = bench.platform.eve().json(["skill", "show", "one"]).await?;
    let first = first["active_version"].as_str().expect("a version").to_owned();
    bench.push("one", &guests::returning_data("[]")).await?;
    let gone = sqlx::query(
        "DELETE FROM eve.artifacts a USING eve.skill_versions v
          WHERE v.id = a.version_id AND v.version = $1",
    )
    .bind(&first)
    .execute(bench.platform.pool())
    .await?;
    assert_eq!(gone.rows_affected(), 1);
    bench.platform.eve().json(["skill", "activate", "one", &first]).await?;
    assert_eq!(bench.run("one", 25).await?.code(), "completed");
    Ok(())
}

/// What was uploaded is compiled, not what somebody has made of it since.
#[tokio::test]
async fn a_component_that_was_changed_is_not_compiled() -> anyhow::Result<()> {
    let mut bench = Bench::set_up().await?;
    let other: Vec<u8> = sqlx::query_scalar(
        "SELECT v.wasm FROM eve.skill_versions v JOIN eve.skills s ON s.active_version = v.id
          WHERE s.name = 'other'",
    )
    .fetch_one(bench.platform.pool())
    .await?;
    sqlx::query(
        "UPDATE eve.skill_versions v SET wasm = $1 FROM eve.skills s
          WHERE s.active_version = v.id AND s.name = 'one'",
    )
    .bind(other)
    .execute(bench.platform.pool())
    .await?;
    sqlx::query("DELETE FROM eve.artifacts").execute(bench.platform.pool()).await?;
    let _worker = bench.worker()?;
    // One that cannot be compiled does not hold up the others.
    assert_eq!(bench.run("other", 25).await?.code(), "completed");
    assert_eq!(bench.run("one", 2).await?.code(), "skill_unloadable");
    let log = bench.server_log();
    assert_eq!(log.matches("a stored component is damaged").count(), 1, "once is enough: {log}");
    Ok(())
}
