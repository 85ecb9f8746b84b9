//! JSON whose shape only its reader knows: views, trees, patches.

use std::fmt;
use std::ops::Deref;

use causeway_event::Invalid;
use serde::Deserialize;

use crate::ClientError;

/// JSON as the gateway wrote it.
///
/// [`read`](Self::read) gives it as a type of yours, as one of the crate `causeway-view` (the views' own), or as a
/// `serde_json::Value`:
///
/// ```no_run
/// # async fn example(client: causeway_client::Client) -> Result<(), causeway_client::ClientError> {
/// use causeway_client::Project;
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     state: Totals,
/// }
/// #[derive(serde::Deserialize)]
/// struct Totals {
///     total: u32,
/// }
///
/// let project = Project { view: "state".to_owned(), id: "order-7".to_owned(), as_of: None, min_position: None };
/// let projection = client.project(project).await?;
/// let order: Order = projection.state.read()?;
/// let anything: serde_json::Value = projection.state.read()?;
/// println!("{} of {anything} as of position {}", order.state.total, projection.position);
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Vec<u8>);

impl Json {
    /// Reads it as a `T`. It fails where it is of another shape: the gateway's is of another version than `T` is.
    pub fn read<'json, T: Deserialize<'json>>(&'json self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.0).map_err(|error| ClientError::Unreadable(Invalid::new("", error.to_string())))
    }
}

impl From<Vec<u8>> for Json {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Json {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}
