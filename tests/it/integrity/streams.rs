//! What is done to the files of a stream behind its server's back.

use super::*;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// The block of the stream's files that holds this text, and where.
fn find(folder: &Path, text: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let found = match path.is_dir() {
            true => find(&path, text),
            false if path.extension().is_some_and(|extension| extension == "blk") => {
                let bytes = fs::read(&path).unwrap();
                bytes.windows(text.len()).position(|window| window == text).map(|at| (path, at))
            }
            false => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// A log of 45 notes whose server was stopped in order: its home, its public key, where note 17 stands, and a copy of its data.
async fn copied() -> (Causeway, PathBuf, u64, PathBuf) {
    let mut causeway = filled(45).await;
    let key = public_key(&causeway);
    let at = position_of(&causeway, 17).await;
    causeway.terminate().await.unwrap();
    let data = causeway.home().join("copy");
    copy(&causeway.data(), &data);
    let _ = fs::remove_file(data.join("lock"));
    (causeway, key, at, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_flipped_in_the_streams_files_is_named() {
    let (_home, key, at, data) = copied().await;
    let verify = async || log(&["verify", "--json", "--data", text(&data), "--public-key", text(&key)]).await;
    assert_eq!(verify().await.problems(), [], "an honest copy");
    let (block, offset) = find(&data.join("nats"), b"{\"n\":17}").unwrap();
    let mut bytes = fs::read(&block).unwrap();
    bytes[offset + 5] = b'9';
    fs::write(&block, bytes).unwrap();
    let problems = verify().await.problems();
    assert!(problems.contains(&("missing".to_owned(), at, at)), "{at}: {problems:?}");
}

/// Alters what stands in a block of the stream's files, and sets the record's own sum right, as a deed with knowledge would.
fn alter(block: &Path, offset: usize, stream: &str, to: u8) {
    let mut bytes = fs::read(block).unwrap();
    // A record: length, sequence, time, length of the subject; subject; length of the headers, headers; payload; sum.
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut at = 0;
    let length = loop {
        let length = (number(&bytes, at) & !(1 << 31)) as usize;
        if offset < at + length {
            break length;
        }
        at += length;
    };
    let index = block.file_stem().unwrap().to_str().unwrap();
    let key: [u8; 32] = Sha256::digest(format!("{stream}-{index}")).into();
    let word = |n: usize| u64::from_le_bytes(key[8 * n..8 * n + 8].try_into().unwrap());
    let sum = |bytes: &[u8]| {
        let subject = usize::from(u16::from_le_bytes([bytes[at + 20], bytes[at + 21]]));
        let headers = at + 22 + subject;
        let mut hasher = HighwayHasher::new(Key([word(0), word(1), word(2), word(3)]));
        hasher.append(&bytes[at + 4..at + 20]);
        hasher.append(&bytes[at + 22..headers]);
        hasher.append(&bytes[headers + 4..at + length - 8]);
        hasher.finalize64().to_le_bytes()
    };
    assert_eq!(sum(&bytes), bytes[at + length - 8..at + length], "the sum is made as the server makes it");
    bytes[offset] = to;
    let right = sum(&bytes);
    bytes[at + length - 8..at + length].copy_from_slice(&right);
    fs::write(block, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_altered_in_the_streams_files_with_its_sum_is_named() {
    let mut causeway = filled(45).await;
    let key = public_key(&causeway);
    let at = position_of(&causeway, 17).await;
    let kept = causeway.home().join("kept.ndjson");
    export(&causeway.ready().nats, &kept).await;
    causeway.terminate().await.unwrap();
    let data = causeway.home().join("copy");
    copy(&causeway.data(), &data);
    let (block, offset) = find(&data.join("nats"), b"{\"n\":17}").unwrap();
    alter(&block, offset + 5, "causeway_EVENTS", b'9');
    let verified = log(&["verify", "--json", "--data", text(&data), "--public-key", text(&key)]).await;
    let [(found, first, last), (fault, from, to)] = &verified.problems()[..] else { panic!("{:?}", verified.0) };
    assert_eq!((found.as_str(), *first, *last), ("altered", at, at));
    assert_eq!(fault, "checkpoint");
    assert!(*from <= at && at <= *to && to - from < 45, "{at} is between {from} and {to}");
    let against = log(&["verify", "--json", "--data", text(&data), "--against", text(&kept)]).await;
    assert!(against.problems().contains(&("altered".to_owned(), at, at)), "{:?}", against.0);
}

/// The folder of a stream that holds its description.
fn described(folder: &Path, stream: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut found = entries.filter_map(|path| match path.ends_with(stream) && path.join("meta.inf").is_file() {
        true => Some(path),
        false => described(&path, stream),
    });
    found.next()
}

/// Lets messages of a stream be deleted, in the files of a server that is not running: one that runs refuses to.
fn permit_deletes(store: &Path, stream: &str) {
    let folder = described(store, stream).unwrap();
    let sum = |description: &str| {
        let key: [u8; 32] = Sha256::digest(stream).into();
        let word = |n: usize| u64::from_le_bytes(key[8 * n..8 * n + 8].try_into().unwrap());
        let hash = HighwayHasher::new(Key([word(0), word(1), word(2), word(3)])).hash64(description.as_bytes());
        hash.to_le_bytes().map(|byte| format!("{byte:02x}")).concat()
    };
    let description = fs::read_to_string(folder.join("meta.inf")).unwrap();
    assert_eq!(sum(&description), fs::read_to_string(folder.join("meta.sum")).unwrap(), "the sum is made as the server makes it");
    let permitted = description.replace("\"deny_delete\":true", "\"deny_delete\":false");
    assert_ne!(permitted, description);
    fs::write(folder.join("meta.inf"), &permitted).unwrap();
    fs::write(folder.join("meta.sum"), sum(&permitted)).unwrap();
}

/// Has a server of its own delete a message, without a trace in its text.
async fn remove(store: &Path, stream: &str, position: u64) {
    let port = causeway_testkit::free_port().unwrap();
    let arguments = ["-js", "-sd", text(store), "-a", "127.0.0.1", "-p", &port.to_string()];
    let mut server = tokio::process::Command::new(causeway_testkit::binary().unwrap())
        .args(arguments)
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let answer = wait_until("the message to be deleted", Duration::from_secs(30), async || {
        let client = async_nats::connect(format!("127.0.0.1:{port}")).await.ok()?;
        let request = json!({ "seq": position }).to_string();
        let answer = client.request(format!("$JS.API.STREAM.MSG.DELETE.{stream}"), request.into()).await.ok()?;
        serde_json::from_slice::<Value>(&answer.payload).ok()
    })
    .await;
    assert_eq!(answer["success"], true, "{answer}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    tokio::time::timeout(Duration::from_secs(30), server.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_an_event_cannot_become_that_of_another_type_in_the_streams_files() {
    let mut causeway = filled(5).await;
    let (api, nats) = (causeway.api(), causeway.ready().nats.clone());
    assert_eq!(api.post("/types", &json!({ "name": "OrderPlaced", "schema": {} })).await.unwrap().0, 201);
    let order = json!({ "type": "OrderPlaced", "aggregate_id": "o", "data": {} });
    let (_, placed) = api.post("/events", &order).await.unwrap();
    // Whoever has a NATS client may say what they like of the schema: the event is one, and has no version.
    let (id, cause) = (planted_id(1), placed["id"].as_str().unwrap());
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", &id),
        ("ce-type", "OrderPaid"),
        ("ce-source", "nats"),
        ("ce-subject", "o"),
        ("ce-causationid", cause),
        ("ce-correlationid", placed["correlation_id"].as_str().unwrap()),
        ("ce-dataschema", "https://example.com/paid.json"),
    ] {
        headers.insert(name, value);
    }
    let client = async_nats::connect(&nats).await.unwrap();
    client.request_with_headers("causeway.ev.o.custom", headers, "{}".into()).await.unwrap();
    let paid =
        wait_until("the event to be read", Duration::from_secs(30), async || api.fetch(&format!("/events/{id}")).await.ok())
            .await;
    assert_eq!((&paid["type"], &paid["metadata"]["schema_version"]), (&json!("OrderPaid"), &Value::Null));
    vouched(&causeway).await;
    let key = public_key(&causeway);
    causeway.terminate().await.unwrap();
    let data = causeway.home().join("copy");
    copy(&causeway.data(), &data);
    let verify = async || log(&["verify", "--json", "--data", text(&data), "--public-key", text(&key)]).await;
    let honest = verify().await;
    assert_eq!((honest.problems(), &honest.json()["warnings"]), (vec![], &json!(0)));
    let (block, offset) = find(&data.join("nats"), b"urn:causeway:type:OrderPlaced:1").unwrap();
    alter(&block, offset + "urn:causeway:type:".len(), "causeway_EVENTS", b'X');
    let position = placed["position"].as_u64().unwrap();
    let problems = verify().await.problems();
    let [(found, first, last), (fault, ..)] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((found.as_str(), *first, *last, fault.as_str()), ("altered", position, position, "checkpoint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_removed_from_a_copy_of_the_streams_files_is_named() {
    let (_home, key, at, data) = copied().await;
    permit_deletes(&data.join("nats"), "causeway_EVENTS");
    remove(&data.join("nats"), "causeway_EVENTS", at).await;
    let verified = log(&["verify", "--json", "--data", text(&data), "--public-key", text(&key)]).await;
    assert!(verified.problems().contains(&("missing".to_owned(), at, at)), "{at}: {:?}", verified.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_nats_itself_cut_off_is_seen_by_whoever_kept_a_head() {
    let mut causeway = filled(45).await;
    let head = log(&["verify", "--json", "--nats", &causeway.ready().nats]).await.json()["head"].as_str().unwrap().to_owned();
    causeway.terminate().await.unwrap();
    let data = causeway.home().join("copy");
    copy(&causeway.data(), &data);
    let (block, offset) = find(&data.join("nats"), b"{\"n\":17}").unwrap();
    let mut bytes = fs::read(&block).unwrap();
    bytes[offset + 5] = b'9';
    fs::write(&block, bytes).unwrap();
    // Without its index the server reads the blocks anew, and cuts each at the first message that is not right.
    fs::remove_file(block.with_file_name("index.db")).unwrap();
    let verified = log(&["verify", "--json", "--data", text(&data), "--checkpoint", &head]).await;
    assert_eq!(verified.problems().last().unwrap().0, "kept_head", "{:?}", verified.0);
}

async fn position_of(causeway: &Causeway, n: usize) -> u64 {
    let events = causeway.api().events("type=NoteTaken").await.unwrap();
    let found = events.iter().find(|event| event["data"]["n"] == n).unwrap();
    found["position"].as_u64().unwrap()
}
