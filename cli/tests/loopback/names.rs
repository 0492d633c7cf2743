//! Names at their limits, through every interface: what one takes the others take, and what one refuses all refuse.

use peernet_proto::v1;
use peernet_proto::v1::files_client::FilesClient;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::network::Network;

/// As long as names may be.
const LONGEST: usize = 1024;

fn good() -> Vec<String> {
    let names = [
        "a/b/c/d/e/f/g",
        "dürer/日本語/🦀",
        "...",
        "a/..b/c..",
        " spaces around ",
        "100%/a+b=c&d?e#f",
        "a%2Fb%00",
        "back\\slash:\"quotes'|*",
        "-o",
        "\u{202e}right to left",
    ];
    let longest = ["x".repeat(LONGEST), "ä".repeat(LONGEST / 2)];
    names.map(String::from).into_iter().chain(longest).collect()
}

fn bad() -> Vec<String> {
    let names = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/./b",
        "a/../b",
        "../a",
        "a/..",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        "a\u{85}b",
        "\u{1}index/x",
    ];
    let long = ["x".repeat(LONGEST + 1), "ä".repeat(LONGEST / 2) + "x"];
    names.map(String::from).into_iter().chain(long).collect()
}

/// Every byte as it is, whatever it means in a path.
fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn put(server: &str, name: &str, data: &[u8]) -> Result<(), Status> {
    let mut files = FilesClient::connect(server.to_owned()).await.unwrap();
    let header = v1::PutHeader {
        name: name.into(),
        ..v1::PutHeader::default()
    };
    let parts = [
        v1::put_request::Part::Header(header),
        v1::put_request::Part::Data(data.to_vec().into()),
    ];
    let parts = parts.map(|part| v1::PutRequest { part: Some(part) });
    files.put(tokio_stream::iter(parts)).await.map(drop)
}

async fn stat(server: &str, name: &str) -> Result<v1::FileInfo, Status> {
    let mut files = FilesClient::connect(server.to_owned()).await.unwrap();
    let answer = files.stat(v1::StatRequest { name: name.into() }).await?;
    Ok(answer.into_inner().file.expect("what it is"))
}

#[test]
fn what_one_interface_takes_all_take_and_what_one_refuses_all_refuse() {
    let network = &Network::up(&["--peers", "4"]);
    let runtime = Runtime::new().unwrap();
    let before = network.json(&["ls"]);
    for (turn, name) in good().iter().enumerate() {
        let data = format!("{turn} {name}").into_bytes();
        match turn % 3 {
            0 => assert_eq!(
                network.rest(0, "PUT", &encoded(name), &data).0,
                201,
                "{name:?}"
            ),
            1 => runtime
                .block_on(put(&network.server(1), name, &data))
                .unwrap(),
            _ => drop(network.run_with(&["put", "--", "-", name], &data)),
        }
        let (status, read) = network.rest(2, "GET", &encoded(name), &[]);
        assert!(status == 200 && read == data, "{name:?}: {status}");
        let file = runtime.block_on(stat(&network.server(3), name)).unwrap();
        assert_eq!((&file.name, file.size), (name, data.len() as u64));
        assert_eq!(
            network.run(&["get", "--", name, "-"]).as_bytes(),
            data,
            "{name:?}"
        );
        let prefix: String = name.chars().take(3).collect();
        let listed = network.run(&["ls", "-o", "json", "--", &prefix]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let mut listed = listed.as_array().unwrap().iter();
        assert!(
            listed.any(|file| file["name"] == **name),
            "{name:?} is not listed"
        );
        network.run(&["rm", "--", name]);
    }
    for name in bad() {
        for method in ["PUT", "GET", "DELETE"] {
            let (status, words) = network.rest(0, method, &encoded(&name), b"");
            let words = String::from_utf8_lossy(&words);
            assert!(
                status == 400 && words.contains("\"detail\""),
                "{method} {name:?}: {status} {words}"
            );
        }
        let refused = runtime
            .block_on(put(&network.server(1), &name, b"x"))
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}: {refused}");
        let refused = runtime
            .block_on(stat(&network.server(1), &name))
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}: {refused}");
        // What ends in a slash is a folder there, and no argument has a zero in it.
        if !name.ends_with('/') && !name.contains('\0') {
            let (code, words) = network.fail(&["put", "--", "-", &name]);
            assert_eq!(code, 2, "{name:?}: {words}");
            let (code, words) = network.fail(&["rm", "--", &name]);
            assert_eq!(code, 2, "{name:?}: {words}");
        }
    }
    assert_eq!(
        network.json(&["ls"]),
        before,
        "a refused name left something behind"
    );
}
