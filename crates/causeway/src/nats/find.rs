//! Where there is a nats-server that is new enough.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;
use causeway_log::SERVER_MIN;

use crate::failure::Hinted;

/// Where `make nats` puts it, below the checkout.
const PRIVATE: &str = ".causeway/nats/bin/nats-server";

/// Names one for whoever has not configured one: `make up` and the tests set it.
const VARIABLE: &str = "CAUSEWAY_NATS_SERVER";

/// A nats-server that can be used.
#[derive(Debug, PartialEq)]
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// The one that was configured, or else named by the environment, or else the first one that is new enough: on the PATH, below
/// the current folder or one above it, below a folder above this program.
pub(crate) fn find(configured: Option<&Path>) -> anyhow::Result<Binary> {
    if let Some(path) = named(configured, std::env::var_os(VARIABLE)) {
        return match version(&path) {
            Ok(version) if new_enough(&version) => Ok(Binary { path, version }),
            Ok(version) => bail!("{} is version {version}; {} or newer is needed", path.display(), oldest()),
            Err(reason) => bail!("{} cannot be used as nats-server: {reason}", path.display()),
        };
    }
    let mut too_old = Vec::new();
    for path in candidates() {
        match version(&path) {
            Ok(version) if new_enough(&version) => return Ok(Binary { path, version }),
            Ok(version) => too_old.push(format!("{} is {version}", path.display())),
            Err(_) => {}
        }
    }
    let what = match too_old.is_empty() {
        true => "no nats-server found".to_owned(),
        false => format!("no nats-server that is new enough: {}", too_old.join(", ")),
    };
    let hint = format!(
        "`make nats` in the checkout installs one; or put nats-server {} or newer on the PATH, name it with CAUSEWAY_NATS_SERVER, \
         or use a NATS that runs already with --nats URL",
        oldest()
    );
    Err(Hinted { what, hint }.into())
}

/// An empty variable is one that is not set.
fn named(configured: Option<&Path>, variable: Option<OsString>) -> Option<PathBuf> {
    configured.map(Path::to_owned).or_else(|| variable.filter(|name| !name.is_empty()).map(PathBuf::from))
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).collect();
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let above = [here.as_deref(), program.as_deref().and_then(Path::parent)].into_iter().flatten().flat_map(Path::ancestors);
    let private: Vec<PathBuf> = above.map(|folder| folder.join(PRIVATE)).collect();
    on_path.into_iter().chain(private).filter(|candidate| candidate.is_file()).collect()
}

fn version(path: &Path) -> Result<String, String> {
    let output = Command::new(path).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("nats-server: v");
    version.map(str::to_owned).ok_or_else(|| "it does not say its version".to_owned())
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor), Some(patch)) => SERVER_MIN <= (major, minor, patch),
        _ => false,
    }
}

fn oldest() -> String {
    let (major, minor, patch) = SERVER_MIN;
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        for version in ["2.12.2", "2.12.10", "2.15.1", "3.0.0-beta.1", "10.0.0"] {
            assert!(new_enough(version), "{version}");
        }
        for version in ["2.12.1", "2.11.9", "2.9.25", "1.99.0", "3", "", "dev"] {
            assert!(!new_enough(version), "{version}");
        }
    }

    #[test]
    fn the_same_version_is_told_everywhere() {
        let told = [
            include_str!("../../../../README.md"),
            include_str!("../../../../scripts/nats.sh"),
            include_str!("../../../../causeway.example.toml"),
            include_str!("../../../causeway-testkit/src/nats.rs"),
            include_str!("../snapshots/causeway__cli__tests__help_up.snap"),
        ];
        assert!(told.iter().all(|text| text.contains(&oldest())), "{}", oldest());
    }

    #[test]
    fn the_configuration_wins_over_the_variable() {
        let variable = || Some("from-variable".into());
        assert_eq!(named(Some(Path::new("configured")), variable()), Some("configured".into()));
        assert_eq!(named(None, variable()), Some("from-variable".into()));
        assert_eq!(named(None, Some("".into())), None);
    }

    #[test]
    fn one_that_is_named_must_do() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("nats-server");
        std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.25'\n").unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(find(Some(&old)).unwrap_err().to_string().ends_with("is version 2.9.25; 2.12.2 or newer is needed"));
        let missing = find(Some(&folder.path().join("nothing"))).unwrap_err().to_string();
        assert!(missing.contains("cannot be used as nats-server"), "{missing}");
    }
}
