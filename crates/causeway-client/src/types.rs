//! The types of events: listing them, and registering one's own.

use causeway_event::{Category, Data, EventId, Invalid};
use causeway_proto::v1;

use crate::client::Effect;
use crate::{Client, ClientError};

/// A type of events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTypeInfo {
    /// Its name.
    pub name: String,
    /// Its category.
    pub category: Category,
    /// What it says, for a person.
    pub description: String,
    /// Its versions, the oldest first. A type that Causeway knows itself has one.
    pub versions: Vec<TypeVersion>,
}

/// A version of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeVersion {
    /// From 1.
    pub version: u32,
    /// The JSON Schema (draft 2020-12) of its data.
    pub schema: Data,
    /// How data of the version before becomes data of this one, as JSON Patch (RFC 6902).
    pub upcast: Option<Data>,
    /// The event that registered it; none for a type that Causeway knows itself.
    pub registered_by: Option<EventId>,
}

/// A type to register, or its next version.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterType {
    /// Its name.
    pub name: String,
    /// The JSON Schema (draft 2020-12) of its data.
    pub schema: Data,
    /// How data of the version before becomes data of this one, as JSON Patch (RFC 6902). None for the first version.
    pub upcast: Option<Data>,
    /// Which version it is; the next one where absent. A program that registers its types whenever it starts says which.
    pub version: Option<u32>,
    /// What it says, for a person.
    pub description: String,
}

/// A registered type.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredType {
    /// The type with all its versions.
    pub info: EventTypeInfo,
    /// Whether exactly this was registered before.
    pub duplicate: bool,
}

impl Client {
    /// The types of events: those that Causeway knows itself, then those that were registered.
    pub async fn types(&self) -> Result<Vec<EventTypeInfo>, ClientError> {
        let list = self.ask(v1::ListTypesRequest {}, |mut grpc, request| async move { grpc.list_types(request).await });
        let response = list.await?;
        response.types.into_iter().map(|info| EventTypeInfo::try_from(info).map_err(ClientError::Unreadable)).collect()
    }

    /// Registers a type, or its next version. The same again changes nothing; with a version, it is retried here.
    pub async fn register_type(&self, register: RegisterType) -> Result<RegisteredType, ClientError> {
        let bytes = |data: Data| data.as_bytes().to_vec();
        let repeatable = register.version.is_some();
        let request = v1::RegisterTypeRequest {
            name: register.name,
            schema: bytes(register.schema),
            upcast: register.upcast.map(bytes).unwrap_or_default(),
            version: register.version.unwrap_or_default(),
            description: register.description,
        };
        let call = || async {
            let mut grpc = self.grpc.clone();
            self.answer(grpc.register_type(self.request(request.clone())), Effect::Write).await
        };
        let response = match repeatable {
            true => self.retried(call, ClientError::is_interruption).await?,
            // Done twice, another's registration between, it would be another version.
            false => call().await?,
        };
        let info = EventTypeInfo::try_from(response.r#type.unwrap_or_default()).map_err(ClientError::Unreadable)?;
        Ok(RegisteredType { info, duplicate: response.duplicate })
    }
}

impl TryFrom<v1::EventType> for EventTypeInfo {
    type Error = Invalid;

    fn try_from(info: v1::EventType) -> Result<Self, Invalid> {
        let version = |version: v1::TypeVersion| {
            let given = |bytes: &[u8]| if bytes.is_empty() { Ok(None) } else { Data::from_json(bytes).map(Some) };
            Ok(TypeVersion {
                version: version.version,
                schema: Data::from_json(&version.schema).map_err(|invalid| invalid.within("/schema"))?,
                upcast: given(&version.upcast).map_err(|invalid| invalid.within("/upcast"))?,
                registered_by: match version.registered_by.as_str() {
                    "" => None,
                    id => Some(id.parse().map_err(|invalid: Invalid| invalid.within("/registered_by"))?),
                },
            })
        };
        Ok(Self {
            name: info.name,
            category: info.category.parse().map_err(|invalid: Invalid| invalid.within("/category"))?,
            description: info.description,
            versions: info.versions.into_iter().map(version).collect::<Result<_, Invalid>>()?,
        })
    }
}
