//! Copies of all streams, and what comes back of them.

use super::*;

/// How long a timer may take to fire that is due in less than half of it.
const TIMER_LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_whole_and_overwrites_nothing() {
    let mut causeway = filled(25).await;
    let nats = causeway.ready().nats.clone();
    let js = async_nats::jetstream::new(async_nats::connect(&nats).await.unwrap());
    let config = async_nats::jetstream::object_store::Config { bucket: "causeway_artifacts".into(), ..Default::default() };
    let bucket = js.create_object_store(config).await.unwrap();
    bucket.put("note.txt", &mut b"an artifact".as_slice()).await.unwrap();
    let folder = causeway.home().join("backup");
    log(&["backup", text(&folder), "--nats", &nats]).await.ok();
    assert_eq!(log(&["backup", text(&folder), "--nats", &nats]).await.0.status.code(), Some(1), "the folder is in use");
    let refused = log(&["restore", text(&folder), "--nats", &nats]).await;
    assert_eq!(refused.0.status.code(), Some(1));
    assert!(refused.0.stderr.contains("nothing is overwritten"), "{:?}", refused.0);
    let elsewhere = Setup::command(&["log", "restore", text(&folder), "--nats", &nats]).env("CAUSEWAY__LOG__NAMESPACE", "other");
    let refused = elsewhere.run().await.unwrap();
    assert!(refused.stderr.contains("the backup is of the namespace causeway"), "{refused:?}");
    let before = log(&["verify", "--json", "--nats", &nats]).await.json();
    let event = causeway.api().fetch("/events/3").await.unwrap();
    causeway.terminate().await.unwrap();

    let setup = Setup::up();
    let data = setup.data();
    let restored = log(&["restore", text(&folder), "--data", text(&data)]).await.ok();
    assert!(restored.0.stderr.contains("no signing key"), "{:?}", restored.0);
    let restored = setup.start().await.unwrap();
    let nats = restored.ready().nats.clone();
    assert_eq!(restored.api().fetch("/events/3").await.unwrap(), event);
    let head = before["head"].as_str().unwrap();
    let verified = log(&["verify", "--json", "--nats", &nats, "--checkpoint", head]).await;
    assert_eq!(verified.problems(), []);
    let js = async_nats::jetstream::new(async_nats::connect(&nats).await.unwrap());
    let mut object = js.get_object_store("causeway_artifacts").await.unwrap().get("note.txt").await.unwrap();
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut object, &mut bytes).await.unwrap();
    assert_eq!(bytes, b"an artifact");

    // One that broke off goes on with what is missing; what is not the backup's is named with what to do.
    let partly = causeway_testkit::NatsServer::start().await.unwrap();
    let restore = async || log(&["restore", text(&folder), "--nats", &partly.url()]).await;
    restore().await.ok();
    assert!(restore().await.0.stderr.contains("nothing is overwritten"));
    let js = async_nats::jetstream::new(partly.client().await.unwrap());
    js.delete_stream("causeway_DLQ").await.unwrap();
    restore().await.ok();
    assert!(js.get_stream("causeway_DLQ").await.is_ok());
    js.publish("causeway.ev.a.custom", "x".into()).await.unwrap().await.unwrap();
    js.delete_stream("causeway_DLQ").await.unwrap();
    let refused = restore().await;
    assert_eq!(refused.0.status.code(), Some(1));
    assert!(refused.0.stderr.contains("`nats stream rm causeway_EVENTS`"), "{:?}", refused.0);
    assert!(js.get_stream("causeway_DLQ").await.is_err(), "nothing was restored");
    js.delete_stream("causeway_EVENTS").await.unwrap();
    restore().await.ok();

    // A file that is not what was backed up is found before anything is restored.
    let snapshot = folder.join("causeway_EVENTS.snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let fresh = causeway_testkit::NatsServer::start().await.unwrap();
    let refused = log(&["restore", text(&folder), "--nats", &fresh.url()]).await;
    assert!(refused.0.stderr.contains("SHA-256"), "{:?}", refused.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_not_due_yet_comes_back_and_fires() {
    let mut nats = causeway_testkit::NatsServer::start().await.unwrap();
    let gateway = Setup::event_store(&nats.url()).start().await.unwrap();
    append(&gateway, 0..3).await;
    let client = nats.client().await.unwrap();
    let timers = json!({
        "name": "causeway_TIMERS", "subjects": ["causeway.timers.>", "causeway.due.>"], "storage": "file", "allow_msg_schedules": true,
    });
    client.request("$JS.API.STREAM.CREATE.causeway_TIMERS", timers.to_string().into()).await.unwrap();
    let mut timer = async_nats::HeaderMap::new();
    let due_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(10);
    timer.insert("Nats-Schedule", format!("@at {due_at:.0}"));
    timer.insert("Nats-Schedule-Target", "causeway.due.tea");
    let js = async_nats::jetstream::new(client);
    js.publish_with_headers("causeway.timers.tea", timer, "it is ready".into()).await.unwrap().await.unwrap();
    let folder = gateway.home().join("backup");
    log(&["backup", text(&folder), "--nats", &nats.url()]).await.ok();
    nats.kill();

    let other = causeway_testkit::NatsServer::start().await.unwrap();
    log(&["restore", text(&folder), "--nats", &other.url()]).await.ok();
    let js = async_nats::jetstream::new(other.client().await.unwrap());
    let timers = js.get_stream("causeway_TIMERS").await.unwrap();
    let due =
        wait_until("the timer", TIMER_LIMIT, async || timers.get_last_raw_message_by_subject("causeway.due.tea").await.ok())
            .await;
    assert_eq!(due.payload, "it is ready");
    assert!(due_at.as_second() <= due.time.unix_timestamp(), "not before it is due: {due:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_in_part_is_not_taken_for_the_log_and_is_restored_anew() {
    let causeway = filled(25).await;
    let folder = causeway.home().join("backup");
    log(&["backup", text(&folder), "--nats", &causeway.ready().nats]).await.ok();
    let manifest: Value = serde_json::from_str(&fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap();
    let event = causeway.api().fetch("/events/3").await.unwrap();
    // As a restore leaves it that was killed: the note, and the beginning of a stream.
    let nats = causeway_testkit::NatsServer::start().await.unwrap();
    let js = async_nats::jetstream::new(nats.client().await.unwrap());
    let stream = async |name: &str, subjects: &[&str], description: &str| {
        let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
        let description = Some(description.to_owned());
        let config = async_nats::jetstream::stream::Config { name: name.to_owned(), subjects, description, ..Default::default() };
        js.create_stream(config).await.unwrap();
    };
    stream("causeway_EVENTS", &["causeway.ev.>"], "").await;
    js.publish("causeway.ev.a.custom", "half".into()).await.unwrap().await.unwrap();
    let note = |streams: &[&str]| json!({ "made": manifest["made"], "streams": streams }).to_string();
    stream("causeway_RESTORE", &[], &note(&["causeway_DLQ"])).await;
    let refused = log(&["restore", text(&folder), "--nats", &nats.url()]).await;
    assert!(refused.0.stderr.contains("causeway_EVENTS exist already"), "it was there before: {:?}", refused.0);
    js.delete_stream("causeway_RESTORE").await.unwrap();
    stream("causeway_RESTORE", &[], &note(&["causeway_EVENTS", "causeway_DLQ"])).await;
    for arguments in [["info"], ["verify"]] {
        let refused = log(&[&arguments[..], &["--nats", &nats.url()]].concat()).await;
        assert!(
            refused.0.stderr.contains("broke off or is under way: do it again with `causeway log restore`"),
            "{:?}",
            refused.0
        );
    }
    let gateway = Setup::command(&["event-store", "--nats", &nats.url(), "--listen", "127.0.0.1:0"]).run().await.unwrap();
    assert!(gateway.stderr.contains("broke off or is under way"), "{gateway:?}");
    log(&["restore", text(&folder), "--nats", &nats.url()]).await.ok();
    let gateway = Setup::event_store(&nats.url()).start().await.unwrap();
    assert_eq!(gateway.api().fetch("/events/3").await.unwrap(), event);
    // One that was killed at its very end, and the log went on: nothing of it is deleted, or told to be.
    append(&gateway, 100..101).await;
    stream("causeway_RESTORE", &[], &note(&["causeway_EVENTS", "causeway_DLQ"])).await;
    js.delete_stream("causeway_DLQ").await.unwrap();
    log(&["restore", text(&folder), "--nats", &nats.url()]).await.ok();
    assert!(js.get_stream("causeway_DLQ").await.is_ok() && js.get_stream("causeway_RESTORE").await.is_err());
    assert_eq!(gateway.api().fetch("/events/3").await.unwrap(), event);
    // Of another backup nobody knows what may be deleted.
    let other = causeway_testkit::NatsServer::start().await.unwrap();
    let js = async_nats::jetstream::new(other.client().await.unwrap());
    let description = Some(json!({ "made": "another", "streams": [] }).to_string());
    let note = async_nats::jetstream::stream::Config { name: "causeway_RESTORE".to_owned(), description, ..Default::default() };
    js.create_stream(note).await.unwrap();
    let refused = log(&["restore", text(&folder), "--nats", &other.url()]).await;
    assert!(refused.0.stderr.contains("a restore of another backup, of another, broke off here"), "{:?}", refused.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_made_while_somebody_appends_is_the_log_as_it_was_at_a_moment() {
    let causeway = filled(20).await;
    let nats = causeway.ready().nats.clone();
    let folder = causeway.home().join("backup");
    let (done, appended) = (AtomicBool::new(false), AtomicUsize::new(20));
    let writer = async {
        while !done.load(Ordering::Relaxed) {
            let next = appended.load(Ordering::Relaxed);
            append(&causeway, next..next + 1).await;
            appended.store(next + 1, Ordering::Relaxed);
        }
    };
    let backup = async {
        wait_until("the writer", Duration::from_secs(30), async || (appended.load(Ordering::Relaxed) > 25).then_some(())).await;
        let before = appended.load(Ordering::Relaxed);
        let backed_up = log(&["backup", "--json", text(&folder), "--nats", &nats]).await.ok().json();
        let behind = appended.load(Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
        (before, behind, backed_up)
    };
    let ((), (before, behind, backed_up)) = tokio::join!(writer, backup);
    assert!(before < behind, "somebody did append");
    let fresh = causeway_testkit::NatsServer::start().await.unwrap();
    log(&["restore", text(&folder), "--nats", &fresh.url()]).await.ok();
    // All that stood before it began is there, in order and whole, and the longer log begins with the same.
    let key = public_key(&causeway);
    let restored = log(&["verify", "--json", "--nats", &fresh.url(), "--public-key", text(&key)]).await;
    assert_eq!(restored.problems(), []);
    let restored = restored.json();
    let streams = backed_up["streams"].as_array().unwrap();
    let events = streams.iter().find(|stream| stream["name"] == "causeway_EVENTS").unwrap();
    assert_eq!((&events["last"], &events["messages"]), (&restored["position"], &restored["entries"]));
    let head = restored["head"].as_str().unwrap();
    assert_eq!(log(&["verify", "--json", "--nats", &nats, "--checkpoint", head]).await.problems(), []);
    let info = log(&["info", "--json", "--nats", &fresh.url()]).await.json();
    let notes = info["categories"]["custom"].as_u64().unwrap();
    assert!((before as u64..=behind as u64 + 1).contains(&notes), "{before} <= {notes} <= {behind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lives_through_a_restore_goes_on_with_it() {
    let causeway = filled(25).await;
    let nats = causeway.ready().nats.clone();
    let folder = causeway.home().join("backup");
    let js = async_nats::jetstream::new(async_nats::connect(&nats).await.unwrap());
    // What a gateway that dispatches groups writes every second, whatever becomes of the log.
    let lease = async |holder: &'static str| {
        let config = async_nats::jetstream::kv::Config { bucket: "causeway_GROUPS".into(), history: 1, ..Default::default() };
        js.create_key_value(config).await.unwrap().put("g", holder.into()).await.unwrap();
    };
    lease("before").await;
    log(&["backup", text(&folder), "--nats", &nats]).await.ok();
    let event = causeway.api().fetch("/events/3").await.unwrap();
    for stream in ["causeway_EVENTS", "causeway_DLQ", "KV_causeway_GROUPS"] {
        js.delete_stream(stream).await.unwrap();
    }
    lease("alive").await;
    lease("still").await;
    let (done, api) = (AtomicBool::new(false), causeway.api());
    let writers = futures::future::join_all((0..8).map(|writer| {
        let (done, api) = (&done, &api);
        async move {
            let note = json!({"type": "NoteTaken", "aggregate_id": format!("w{writer}"), "data": {}});
            while !done.load(Ordering::Relaxed) {
                // Refused while there is no log.
                if api.append(&note).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }));
    let restore = async {
        let restored = log(&["restore", text(&folder), "--nats", &nats]).await;
        let again = log(&["restore", text(&folder), "--nats", &nats]).await;
        done.store(true, Ordering::Relaxed);
        (restored, again)
    };
    let (_, (restored, again)) = tokio::join!(writers, restore);
    restored.ok();
    assert!(again.0.stderr.contains("exist already and hold something else"), "it is done, and went on: {:?}", again.0);
    assert!(js.get_stream("causeway_DLQ").await.is_ok() && js.get_stream("causeway_RESTORE").await.is_err());
    let leases = js.get_key_value("causeway_GROUPS").await.unwrap();
    assert_eq!(leases.get("g").await.unwrap().unwrap(), "still");
    assert_eq!(log(&["verify", "--json", "--nats", &nats]).await.problems(), []);
    wait_until("the gateway to go on", Duration::from_secs(30), async || {
        (api.fetch("/events/3").await.ok()? == event).then_some(())
    })
    .await;
    wait_until("the gateway to have what the log has", Duration::from_secs(30), async || {
        let entries = log(&["info", "--json", "--nats", &nats]).await.json()["entries"].as_u64();
        (entries == api.fetch("/events/count").await.ok()?["count"].as_u64()).then_some(())
    })
    .await;
}
