//! The types of events: what is listed, and which registrations may be sent a second time.

use causeway_client::{ClientError, Kind, Problem, RegisterType};
use causeway_event::{Category, Data};
use causeway_proto::v1;
use tonic::Status;

use crate::gateway::{Gateway, event};

fn version(number: u32, upcast: &str, registered_by: &str) -> v1::TypeVersion {
    let schema = format!(r#"{{"minimum":{number}}}"#).into();
    v1::TypeVersion { version: number, schema, upcast: upcast.into(), registered_by: registered_by.into() }
}

fn order_placed() -> v1::EventType {
    let (first, second) = (event(4).id, event(5).id);
    v1::EventType {
        name: "OrderPlaced".into(),
        category: "custom".into(),
        description: "somebody bought something".into(),
        versions: vec![version(1, "", &first), version(2, "[1.50]", &second)],
    }
}

fn register(version: Option<u32>) -> RegisterType {
    RegisterType {
        name: "OrderPlaced".into(),
        schema: Data::from_json(br#"{"minimum":2.50}"#).unwrap(),
        upcast: None,
        version,
        description: "sold".into(),
    }
}

fn registered(duplicate: bool) -> Result<v1::RegisterTypeResponse, Status> {
    Ok(v1::RegisterTypeResponse { r#type: Some(order_placed()), duplicate })
}

fn problem(kind: Kind) -> Status {
    Problem::new(kind, "not so").into()
}

#[tokio::test]
async fn types_are_listed_with_all_their_versions() {
    let gateway = Gateway::default();
    let known = v1::EventType {
        name: "MessageReceived".into(),
        category: "input".into(),
        versions: vec![version(1, "", "")],
        ..v1::EventType::default()
    };
    let bad = |change: fn(&mut v1::EventType)| {
        let mut info = order_placed();
        change(&mut info);
        Ok(v1::ListTypesResponse { types: vec![info] })
    };
    gateway.0.lock().unwrap().types = vec![
        Err(problem(Kind::Unavailable)),
        Ok(v1::ListTypesResponse { types: vec![known, order_placed()] }),
        bad(|info| info.category = "unheard-of".into()),
        bad(|info| info.versions[0].schema = b"{".to_vec()),
        bad(|info| info.versions[1].upcast = b"{".to_vec()),
        bad(|info| info.versions[1].registered_by = "me".into()),
    ];
    let client = gateway.start().await;
    let types = client.types().await.unwrap();
    assert_eq!(
        types.iter().map(|info| (info.name.as_str(), info.category)).collect::<Vec<_>>(),
        [("MessageReceived", Category::Input), ("OrderPlaced", Category::Custom)]
    );
    assert_eq!((types[0].versions[0].registered_by, &types[0].versions[0].upcast), (None, &None));
    let [first, second] = &types[1].versions[..] else { panic!("{types:?}") };
    assert_eq!((first.version, first.schema.as_str(), &first.upcast), (1, r#"{"minimum":1}"#, &None));
    assert_eq!(second.registered_by.unwrap().to_string(), event(5).id);
    assert_eq!(second.upcast.as_ref().unwrap().as_str(), "[1.50]", "as it was sent");
    for field in ["/category", "/schema", "/upcast", "/registered_by"] {
        match client.types().await.unwrap_err() {
            ClientError::Unreadable(invalid) => assert_eq!(invalid.field, field),
            other => panic!("{other}"),
        }
    }
    assert_eq!(gateway.asked().len(), 6, "asked again, for it only reads");
}

#[tokio::test]
async fn a_registration_that_says_its_version_is_sent_until_its_outcome_is_known() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().registrations = vec![
        Err(problem(Kind::Unavailable)),
        Err(Status::unavailable("upstream connect error or disconnect/reset before headers")),
        Err(problem(Kind::OutcomeUnknown)),
        registered(true),
        Err(problem(Kind::Conflict)),
    ];
    let client = gateway.start().await;
    let second = RegisterType { upcast: Some(Data::from_json(b"[]").unwrap()), ..register(Some(2)) };
    let answer = client.register_type(second).await.unwrap();
    assert!(answer.duplicate);
    assert_eq!((answer.info.name.as_str(), answer.info.versions.len()), ("OrderPlaced", 2));
    assert_eq!(gateway.asked(), [r#"register OrderPlaced 2 {"minimum":2.50} [] sold"#; 4]);
    assert_eq!(client.register_type(register(Some(1))).await.unwrap_err().kind(), Some(Kind::Conflict));
    assert_eq!(gateway.asked().len(), 5, "a refusal is one for good");
}

#[tokio::test]
async fn a_registration_of_the_next_version_is_sent_once() {
    let gateway = Gateway::default();
    gateway.0.lock().unwrap().registrations = vec![
        registered(false),
        Err(problem(Kind::OutcomeUnknown)),
        Err(Status::unavailable("upstream connect error or disconnect/reset before headers")),
    ];
    let client = gateway.start().await;
    assert!(!client.register_type(register(None)).await.unwrap().duplicate);
    for _ in 0..2 {
        let error = client.register_type(register(None)).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::OutcomeUnknown), "{error}");
    }
    assert_eq!(gateway.asked(), [r#"register OrderPlaced 0 {"minimum":2.50}  sold"#; 3]);
}
