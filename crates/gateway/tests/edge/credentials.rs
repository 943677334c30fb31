//! Who calls.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, signature::KeyPair};
use serde_json::{Value, json};
use tonic::Code;

use crate::fake::{Edge, unsigned};

/// A call that begins so long after a change is answered by it, however long the answer takes: the second for which an
/// answer counts, and what two clocks may differ by.
const BOUND: Duration = Duration::from_millis(1100);

#[tokio::test]
async fn headers_that_are_no_credential_are_refused_with_a_hint() {
    let edge = Edge::local();
    edge.world.operator("mi_a");
    for bad in ["", "Bearer", "Bearer ", "Basic bWk6YQ==", "mi_a", "Bearer mi_a mi_a", "Bearermi_a"] {
        let refused = edge.who(bad).await.expect_err(bad);
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad:?}");
        assert!(refused.message().contains("Bearer"), "{bad:?}: {}", refused.message());
    }
    let mut request = tonic::Request::new(mi_proto::v1::ListActivityRequest::default());
    for _ in 0..2 {
        request.metadata_mut().append("authorization", "Bearer mi_a".parse().expect("a value"));
    }
    let refused = edge.activity().list_activity(request).await.expect_err("two credentials");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(edge.world.lookups.load(Ordering::SeqCst), 0);
}

/// Whoever listens for what is revoked has heard what was until now: the rest is found by asking.
async fn listening(edge: &Edge) {
    while edge.world.questions.lock().expect("unpoisoned").len() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_api_key_is_asked_for_once_a_second_and_a_revoked_one_dies_within_it() {
    let edge = Edge::local();
    let (operator, other) = (edge.world.operator("mi_a"), edge.world.operator("mi_b"));
    assert_eq!(edge.who("bearer mi_b").await.expect("known"), other);
    let calls = (0..20).map(|_| edge.who("Bearer mi_a"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.expect("known"), operator);
    }
    assert_eq!(edge.world.lookups.load(Ordering::SeqCst), 2);

    listening(&edge).await;
    edge.world.revoke("mi_a");
    let revoked = Instant::now();
    let refused = loop {
        let began = revoked.elapsed();
        match edge.who("Bearer mi_a").await {
            Ok(_) => assert!(began < BOUND, "it still works"),
            Err(refused) => break refused,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "the API key is unknown or revoked"));
    assert_eq!(edge.who("Bearer mi_b").await.expect("untouched"), other);
}

/// Many credentials cost one question a second, which is about all of them.
#[tokio::test]
async fn a_credential_that_nobody_revoked_is_not_asked_for_again() {
    let edge = Edge::local();
    let keys: Vec<String> = (0..20).map(|n| format!("mi_{n}")).collect();
    let agent = edge.world.agent();
    let token = agent.token(&agent.header(), &agent.claims());
    keys.iter().for_each(|key| drop(edge.world.operator(key)));
    let call_all = async || {
        for credential in keys.iter().chain([&token]) {
            edge.who(&format!("Bearer {credential}")).await.expect("known");
        }
    };
    let questions = || edge.world.questions.lock().expect("unpoisoned").clone();
    listening(&edge).await;
    call_all().await;
    let began = Instant::now();
    while questions().len() < 6 {
        call_all().await;
        assert!(began.elapsed() < 10 * BOUND, "nobody asks what was revoked");
    }
    assert!(began.elapsed() > BOUND, "two roles were asked twice in {:?}", began.elapsed());
    assert_eq!(edge.world.lookups.load(Ordering::SeqCst), 21);
    // Each question begins where its role ended the last time, which was in the order in which they were asked.
    for role in ["office", "scheduler"] {
        let since = questions().into_iter().enumerate().filter(|(_, (asked, _))| *asked == role);
        let [_, (before, _), (_, (_, since))] = since.collect::<Vec<_>>()[..] else { panic!("{:?}", questions()) };
        assert_eq!(since, before as i64 + 1, "{:?}", questions());
    }

    // A role that does not say is asked about each again.
    edge.world.silent.store(true, Ordering::SeqCst);
    let began = Instant::now();
    while edge.world.lookups.load(Ordering::SeqCst) < 42 {
        call_all().await;
        assert!(began.elapsed() < 10 * BOUND, "nobody is asked");
    }
    for (key, is_revoked) in [("mi_0", true), ("mi_1", false)] {
        if is_revoked {
            edge.world.revoke(key);
        }
        let began = Instant::now();
        while began.elapsed() < BOUND {
            let _ = edge.who(&format!("Bearer {key}")).await;
        }
        assert_eq!(edge.who(&format!("Bearer {key}")).await.is_err(), is_revoked);
    }
}

#[tokio::test]
async fn an_unknown_key_is_refused_and_does_not_reach_the_office_each_time() {
    let edge = Edge::local();
    for _ in 0..20 {
        let refused = edge.who("Bearer mi_unknown").await.expect_err("unknown");
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(!format!("{refused:?}").contains("mi_unknown"), "credentials are never echoed");
    }
    assert!(edge.world.lookups.load(Ordering::SeqCst) < 20);
    // Made a moment later, it works a moment later.
    let operator = edge.world.operator("mi_unknown");
    let made = Instant::now();
    loop {
        let began = made.elapsed();
        if edge.who("Bearer mi_unknown").await.ok().as_ref() == Some(&operator) {
            break;
        }
        assert!(began < BOUND, "the refusal lasts too long");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_role_that_cannot_be_asked_is_no_refusal() {
    let edge = Edge::local();
    let (operator, agent) = (edge.world.operator("mi_a"), edge.world.agent());
    let token = agent.token(&agent.header(), &agent.claims());
    edge.world.down.store(true, Ordering::SeqCst);
    for credential in ["mi_a", &token] {
        let failed = edge.who(&format!("Bearer {credential}")).await.expect_err("down");
        assert_eq!(failed.code(), Code::Unavailable);
    }
    edge.world.down.store(false, Ordering::SeqCst);
    assert_eq!(edge.who("Bearer mi_a").await.expect("up again"), operator);
    edge.who(&format!("Bearer {token}")).await.expect("up again");
}

#[tokio::test]
async fn an_agent_is_who_its_token_says() {
    let edge = Edge::local();
    let agent = edge.world.agent();
    let with = |name: &str, value: Value| {
        let mut claims = agent.claims();
        claims[name] = value;
        claims
    };
    let iat = agent.claims()["iat"].as_i64().expect("a number");
    let mut skewed = with("iat", json!(iat + 20));
    skewed["exp"] = json!(iat + 320);
    for claims in [
        agent.claims(),
        with("aud", json!(["other", "mi"])),
        with("exp", json!(iat + 300)),
        with("exp", json!(iat as f64 + 100.5)),
        with("more", json!({"deep": []})),
        skewed,
    ] {
        let token = agent.token(&agent.header(), &claims);
        // The second is answered from memory.
        for _ in 0..2 {
            assert_eq!(
                edge.who(&format!("Bearer {token}")).await.expect("valid"),
                format!("agent:{}", agent.id),
                "{claims}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_is_wrong_in_anything_is_refused_alike() {
    let edge = Edge::local();
    let (agent, other) = (edge.world.agent(), edge.world.agent());
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = agent.claims();
        change(&mut claims);
        agent.token(&agent.header(), &claims)
    };
    let header = |change: &dyn Fn(&mut Value)| {
        let mut header = agent.header();
        change(&mut header);
        agent.token(&header, &agent.claims())
    };
    let remove =
        |name: &'static str| move |value: &mut Value| drop(value.as_object_mut().expect("an object").remove(name));
    let iat = agent.claims()["iat"].as_i64().expect("a number");
    let good = claims(&|_| ());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (head, _) = message.split_once('.').expect("two parts");
    let none = unsigned(&json!({"alg": "none", "kid": agent.kid}), &agent.claims());
    let hs256 = unsigned(&json!({"alg": "HS256", "kid": agent.kid}), &agent.claims());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, agent.pair.public_key().as_ref());
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&secret, hs256.as_bytes()));
    let others_claims = unsigned(&agent.header(), &other.claims());
    let bad = [
        ("alg none", format!("{none}.")),
        ("alg none, signed", format!("{none}.{signature}")),
        ("HS256 with the public key as secret", format!("{hs256}.{tag}")),
        ("alg HS256 signed by EdDSA", header(&|header| header["alg"] = json!("HS256"))),
        ("crit", header(&|header| header["crit"] = json!(["b64"]))),
        ("no kid", header(&remove("kid"))),
        ("malformed kid", header(&|header| header["kid"] = json!("k' or 1=1"))),
        ("other's kid", header(&|header| header["kid"] = json!(other.kid))),
        ("wrong aud", claims(&|claims| claims["aud"] = json!("other"))),
        ("wrong auds", claims(&|claims| claims["aud"] = json!(["other"]))),
        ("no aud", claims(&remove("aud"))),
        ("no iss", claims(&remove("iss"))),
        ("iss no id", claims(&|claims| claims["iss"] = json!("analyst"))),
        ("other's iss", claims(&|claims| claims["iss"] = json!(other.id.to_string()))),
        ("no jti", claims(&remove("jti"))),
        ("empty jti", claims(&|claims| claims["jti"] = json!(""))),
        ("no iat", claims(&remove("iat"))),
        ("no exp", claims(&remove("exp"))),
        ("exp too far", claims(&|claims| claims["exp"] = json!(iat + 301))),
        ("exp as text", claims(&|claims| claims["exp"] = json!("soon"))),
        ("expired", claims(&|claims| (claims["iat"], claims["exp"]) = (json!(iat - 200), json!(iat - 40)))),
        ("from the future", claims(&|claims| (claims["iat"], claims["exp"]) = (json!(iat + 60), json!(iat + 120)))),
        ("not yet", claims(&|claims| claims["nbf"] = json!(iat + 60))),
        ("other's signature", other.token(&agent.header(), &agent.claims())),
        ("tampered", format!("{others_claims}.{signature}")),
        ("cut", format!("{message}.{}", &signature[..40])),
        ("two parts", message.to_owned()),
        ("one part", head.to_owned()),
        ("four parts", format!("{good}.x")),
        ("nonsense", "nonsense".to_owned()),
    ];
    let mut texts = std::collections::HashSet::new();
    for (what, token) in bad {
        let refused = edge.who(&format!("Bearer {token}")).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        texts.insert(format!("{refused:?}"));
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    edge.who(&format!("Bearer {good}")).await.expect("the good one is good");
}

#[tokio::test]
async fn a_key_that_was_rotated_dies_within_a_second() {
    let edge = Edge::local();
    let agent = edge.world.agent();
    let mut jti = 0;
    let mut fresh = || {
        jti += 1;
        let mut claims = agent.claims();
        claims["jti"] = json!(jti.to_string());
        agent.token(&agent.header(), &claims)
    };
    let kept = fresh();
    edge.who(&format!("Bearer {kept}")).await.expect("known");
    listening(&edge).await;
    edge.world.rotate(&agent);
    let gone = Instant::now();
    // Neither the remembered token nor new ones outlive the key.
    for again in [true, false] {
        loop {
            let began = gone.elapsed();
            if edge.who(&format!("Bearer {}", if again { kept.clone() } else { fresh() })).await.is_err() {
                break;
            }
            assert!(began < BOUND, "it still works");
            tokio::task::yield_now().await;
        }
    }
}
