//! EdDSA over `ring` for jsonwebtoken, which otherwise would bring a second crypto library.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result as JwtResult},
    signature::{Error as SignatureError, Signer, Verifier},
};
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Only for JWK, which nothing here uses.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the process's provider. Every algorithm but EdDSA is refused, so no token can choose a weaker one.
pub fn install() {
    // Fails only when one is installed already.
    let _ = PROVIDER.install_default();
}

struct RingSigner(Ed25519KeyPair);

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

/// The key is PKCS#8, from `EncodingKey::from_ed_der`.
fn signer(algorithm: &Algorithm, key: &EncodingKey) -> JwtResult<Box<dyn JwtSigner>> {
    if *algorithm != Algorithm::EdDSA {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let pair = Ed25519KeyPair::from_pkcs8(key.as_bytes()).map_err(|_| ErrorKind::InvalidKeyFormat)?;
    Ok(Box::new(RingSigner(pair)))
}

struct RingVerifier(UnparsedPublicKey<[u8; ED25519_PUBLIC_KEY_LEN]>);

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        self.0.verify(message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

/// The key is the raw 32 bytes, from `DecodingKey::from_ed_der`.
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    if *algorithm != Algorithm::EdDSA {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let raw = key.try_get_as_bytes()?.try_into().map_err(|_| ErrorKind::InvalidKeyFormat)?;
    Ok(Box::new(RingVerifier(UnparsedPublicKey::new(&ED25519, raw))))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Header, Validation, decode, encode};
    use ring::{rand::SystemRandom, signature::KeyPair};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Claims {
        exp: u64,
        aud: String,
    }

    #[test]
    fn signs_and_verifies_and_refuses_what_is_not_its_own() {
        install();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("key");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("own key");
        let claims = Claims { exp: jsonwebtoken::get_current_timestamp() + 60, aud: "mi".into() };
        let signing = EncodingKey::from_ed_der(pkcs8.as_ref());
        let token = encode(&Header::new(Algorithm::EdDSA), &claims, &signing).expect("signs");
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&["mi"]);
        let own = DecodingKey::from_ed_der(pair.public_key().as_ref());
        assert_eq!(decode::<Claims>(&token, &own, &rules).expect("verifies").claims, claims);

        let other = DecodingKey::from_ed_der(&[7; 32]);
        assert!(decode::<Claims>(&token, &other, &rules).is_err());
        let short = DecodingKey::from_ed_der(&[7; 31]);
        assert!(decode::<Claims>(&token, &short, &rules).is_err());
        let (head, signature) = token.rsplit_once('.').expect("three parts");
        assert!(decode::<Claims>(format!("{head}x.{signature}"), &own, &rules).is_err());
        let hmac = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(b"x"));
        assert!(hmac.is_err());
    }
}
