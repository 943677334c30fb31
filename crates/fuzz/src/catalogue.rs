//! Catalogue files: what an installation offers.

use std::{collections::BTreeSet, ptr};

use mi_catalogue::{Catalogue, Price};

/// A text as a catalogue.
pub fn catalogue(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    // It names files to read; those are no text of a stranger's.
    if text.contains("key_file") {
        return false;
    }
    let catalogue = match Catalogue::parse(text) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            assert_eq!(error.field, Some("catalogue"));
            assert!(error.message.contains("line") || error.message.contains("bytes"), "{error}");
            return false;
        }
    };
    assert!(!catalogue.tiers.is_empty(), "{text}");
    for tier in &catalogue.tiers {
        assert!(ptr::eq(catalogue.tier("tier", &tier.name).expect("listed"), tier), "{tier:?}");
        for provider in catalogue.providers_of(tier) {
            let Price { input, output, .. } = catalogue.served(tier, provider).expect("has a price").price;
            assert!(!tier.name.is_empty() && input >= 0 && output >= 0, "{tier:?}");
        }
    }
    for role in &catalogue.roles {
        assert!(ptr::eq(catalogue.role("role", &role.name).expect("listed"), role), "{role:?}");
        assert!(role.tier.is_empty() || catalogue.tier("tier", &role.tier).is_ok(), "{role:?}");
    }
    for integration in &catalogue.integrations {
        let found = catalogue.integration("integration", &integration.name).expect("listed");
        assert!(!integration.name.is_empty() && ptr::eq(found, integration), "{integration:?}");
        for spec in &integration.secrets {
            let found = integration.secret("secret", &spec.name).expect("listed");
            assert!(!spec.name.is_empty() && ptr::eq(found, spec), "{spec:?}");
            // What a shell and the platform's own settings allow.
            let env = |byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
            assert!(!spec.env.is_empty() && spec.env.bytes().all(env) && !spec.env.starts_with("MI_"), "{spec:?}");
        }
        let envs: BTreeSet<&str> = integration.secrets.iter().map(|spec| spec.env.as_str()).collect();
        assert_eq!(envs.len(), integration.secrets.len(), "{integration:?}");
    }
    true
}
