//! How many files, connections among them, the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes what the system allows at most, and says how many those are; nothing where there is no limit.
///
/// Many systems allow far more than they give at first.
pub fn files_max() -> Option<u64> {
    let given = getrlimit(Resource::Nofile);
    let taken = Rlimit { current: given.maximum, ..given };
    match setrlimit(Resource::Nofile, taken) {
        Ok(()) => taken.current,
        // Some systems take back what they promise: then it stays as it is.
        Err(_) => given.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_allows_is_taken() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: current.map(|files| files / 2), maximum }).unwrap();
        assert_eq!(files_max(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
