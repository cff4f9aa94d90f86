# pip install "pyjwt[crypto]"
import jwt

keys = jwt.PyJWKClient("https://tickets.example/.well-known/jwks.json")  # cached; refreshed for an unknown key


def account_of(token, sale, keys=keys):
    """Returns the account of a valid pass for `sale`; raises jwt.InvalidTokenError otherwise."""
    if jwt.get_unverified_header(token).get("typ") != "pass+jwt":
        raise jwt.InvalidTokenError("not a pass")
    claims = jwt.decode(
        token, keys.get_signing_key_from_jwt(token).key, algorithms=["EdDSA"], issuer="onsale",
        audience=f"sale:{sale}", leeway=5, options={"require": ["iss", "aud", "sub", "nbf", "exp"]})
    return claims["sub"]
