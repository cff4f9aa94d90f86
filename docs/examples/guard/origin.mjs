import { createPublicKey, verify } from 'node:crypto';

/** Returns the account of a valid pass for `sale`; throws otherwise. `jwks` is the answer of /.well-known/jwks.json. */
export function accountOf(pass, sale, jwks, now = Date.now() / 1000) {
  const [head, body, signature] = pass.split('.').map((part) => Buffer.from(part, 'base64url'));
  const { alg, typ, kid, crit } = JSON.parse(head);
  const key = jwks.keys.find((key) => key.kid === kid && key.crv === 'Ed25519');
  if (alg !== 'EdDSA' || typ !== 'pass+jwt' || crit || !key) throw new Error('not a pass, or an unknown key');
  const signed = Buffer.from(pass.slice(0, pass.lastIndexOf('.')));
  if (!verify(null, signed, createPublicKey({ key, format: 'jwk' }), signature)) throw new Error('bad signature');
  const { iss, aud, sub, nbf, exp } = JSON.parse(body);
  if (iss !== 'onsale' || aud !== `sale:${sale}`) throw new Error('for another sale');
  if (!(nbf <= now + 5 && exp > now - 5)) throw new Error('not valid now');
  return sub;
}
