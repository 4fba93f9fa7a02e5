"""Calls an API with PyPI "requests-oauth2client", for the test beside it; prints what came of it, and of sending the
same headers again, as one line of JSON."""

import json
import os

import requests
from requests_oauth2client import OAuth2Client

api = os.environ["API"]
client = OAuth2Client(
    token_endpoint=os.environ["TOKEN_ENDPOINT"],
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ["CLIENT_SECRET"],
    dpop_bound_access_tokens=True,
    testing=True,  # the servers of the test are on loopback, without TLS
)
token = client.client_credentials()

first = requests.get(api, auth=token)
again = requests.get(api, headers=first.request.headers)
print(json.dumps({
    "status": first.status_code, "body": first.json(), "again": again.status_code, "jkt": token.dpop_key.dpop_jkt,
}))
