//! The verifier that the documentation shows: a second one, in another language.

use std::fs;
use std::path::Path;
use std::time::Duration;

use causeway_e2e::{Page, tools};
use serde_json::json;

use super::{append, export, filled, foreign_key, log, public_key, sha256, text, vouched};

#[tokio::test(flavor = "multi_thread")]
async fn the_verifier_of_the_documentation_comes_to_the_same() {
    let causeway = filled(20).await;
    let nats = causeway.ready().nats.clone();
    let api = causeway.api();
    // Everything that can stand on a log: data that no line takes as it is, a version, a cause, a fence, what is no event.
    let (status, _) = api.post("/types", &json!({ "name": "OrderPlaced", "schema": {} })).await.unwrap();
    assert_eq!(status, 201);
    let order = json!({ "type": "OrderPlaced", "aggregate_id": "order ü", "data": { "n": 1.50 } });
    let (status, placed) = api.post("/events", &json!({ "events": [order], "expected": "empty" })).await.unwrap();
    assert_eq!(status, 201, "{placed}");
    let caused = json!({
        "type": "NoteTaken", "aggregate_id": "x", "data": null, "metadata": { "labels": { "é": "1", "a": "\"data\":" } },
    });
    assert_eq!(api.post("/events", &caused).await.unwrap().0, 201);
    let client = async_nats::connect(&nats).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("x-b", "2");
    headers.insert("x-a", "é");
    client.request_with_headers("causeway.ev.x.custom", headers, "garbage".into()).await.unwrap();
    append(&causeway, 20..30).await;
    vouched(&causeway).await;
    let file = causeway.home().join("log.ndjson");
    let lines = export(&nats, &file).await;
    assert!(lines.contains("data_base64") && lines.contains("dataschema") && lines.contains("\"foreign\""), "{lines}");
    let (program, key) = (causeway.home().join("verify.py"), public_key(&causeway));
    fs::write(&program, Page::read("docs/integrity.md").unwrap().file("verify.py").unwrap()).unwrap();
    let run = async |export: &Path, key: &Path| {
        let mut python = tokio::process::Command::new(tools().unwrap().join("bin/python"));
        python.arg(&program).arg(export).arg(key).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), python.output()).await.unwrap().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        if output.status.success() { Ok(stdout) } else { Err(stderr) }
    };
    let ours = log(&["verify", "--json", "--from-export", text(&file), "--public-key", text(&key)]).await.json();
    let expected_of_all =
        format!("verified, vouched for up to position {}\n{}\n", ours["vouched"], ours["head"].as_str().unwrap());
    assert_eq!(run(&file, &key).await, Ok(expected_of_all.clone()));
    // It takes data that was taken out, and nothing that was altered, by whatever hand.
    let other = causeway.home().join("other.ndjson");
    let of = async |change: &dyn Fn(&str) -> String| {
        let changed = change(&lines);
        assert_ne!(changed, lines);
        fs::write(&other, changed).unwrap();
        run(&other, &key).await
    };
    let digest = format!("\"datadigest\":\"{}\"", sha256("{\"n\":9}"));
    assert_eq!(of(&|lines| lines.replace("\"data\":{\"n\":9}", &digest)).await, Ok(expected_of_all.clone()));
    let altered = of(&|lines| lines.replace("\"data\":{\"n\":9}", "\"data\":{\"n\":8}")).await.unwrap_err();
    assert!(altered.contains("is not what the export was made of"), "{altered}");
    let altered = of(&|lines| lines.replace("OrderPlaced:1", "Refund:1")).await.unwrap_err();
    assert!(altered.contains("is none of an export"), "{altered}");
    // One line is one thing, for whatever reader.
    let digest = format!("\"datadigest\":\"{}\",\"data\":{{\"n\":8}}", sha256("{\"n\":9}"));
    let forged: [&dyn Fn(&str) -> String; 8] = [
        &|lines| lines.replace("\"data\":{\"n\":9}", &digest),
        &|lines| lines.replace("{\"n\":9},\"hash\":", "{\"n\":9},\"unknown\":1,\"hash\":"),
        &|lines| {
            let (before, line) = lines.split_once("{\"n\":9},").unwrap();
            let (hash, rest) = line.split_once("}\n").unwrap();
            format!("{before}{{\"n\":9}},{hash}, \"data\" : {{\"n\":8}}}}\n{rest}")
        },
        &|lines| format!("{{\"id\":\"evt_01h455vb4pex5vskg000000006\",\"type\":\"NoteTaken\",\"data\":1}}\n{lines}"),
        &|lines| lines.trim_end().to_owned(),
        // What was hashed stands deeper down.
        &|lines| {
            let (before, line) = lines.split_once("\"data\":{\"n\":9},").unwrap();
            let (hash, rest) = line.split_once("}\n").unwrap();
            format!("{before}\"data\":{{\"n\":8,\"data\":{{\"n\":9}},\"hash\":\"x\"}}, {hash}}}\n{rest}")
        },
        &|lines| {
            let line = lines.lines().find(|line| line.contains("\"data\":{\"n\":9}")).unwrap();
            let (head, hash) = line.split_once(",\"data\":{\"n\":9},\"hash\":").unwrap();
            let hidden = "\"specversion\":{\"x\":1,\"data\":{\"n\":9},\"hash\":\"x\"}";
            let head = head.replacen("\"specversion\":\"1.0\"", hidden, 1);
            lines.replace(line, &format!("{head}, \"data\":{{\"n\":8}}, \"hash\":{hash}"))
        },
        &|lines| lines.replace("\"datacontenttype\":\"application/json\"", "\"datacontenttype\":\"text/plain\""),
    ];
    for change in forged {
        let refused = of(change).await.unwrap_err();
        assert!(refused.contains("is none of an export"), "{refused}");
    }
    // A part from the middle holds as well.
    let part = causeway.home().join("part.ndjson");
    log(&["export", "--nats", &nats, "--after", "10", "--file", text(&part)]).await.ok();
    let told = expected_of_all.replace("verified", "verified behind position 10: nothing was seen of what stands before");
    assert_eq!(run(&part, &key).await, Ok(told));
    let cut = of(&|lines| lines.lines().take(9).map(|line| format!("{line}\n")).collect()).await.unwrap_err();
    assert!(cut.contains("is not whole"), "{cut}");
    let forged = run(&file, &foreign_key(causeway.home())).await.unwrap();
    assert!(forged.contains("vouched for up to position 0"), "a key that signed nothing vouches for nothing: {forged}");
    // Ours names the schema as well.
    fs::write(&other, lines.replace("OrderPlaced:1", "Refund:1")).unwrap();
    let named = log(&["verify", "--json", "--from-export", text(&other), "--public-key", text(&key)]).await;
    assert_eq!(named.problems()[0].0, "bad_line");
    assert!(named.json()["findings"][0]["what"].as_str().unwrap().contains("dataschema: is not"), "{:?}", named.0);
}
