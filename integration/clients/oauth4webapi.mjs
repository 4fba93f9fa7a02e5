// Calls an API with npm "oauth4webapi", for the test beside it; prints what came of it, and of sending the same request
// again, as one line of JSON.
import * as oauth from 'oauth4webapi'

const { ISSUER, API, CLIENT_ID, CLIENT_SECRET } = process.env
const plain = { [oauth.allowInsecureRequests]: true } // the servers of the test are on loopback, without TLS

const issuer = new URL(ISSUER)
const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, plain))
const client = { client_id: CLIENT_ID }
const DPoP = oauth.DPoP(client, await oauth.generateKeyPair('ES256'))
const granted = await oauth.clientCredentialsGrantRequest(
  server, client, oauth.ClientSecretPost(CLIENT_SECRET), {}, { DPoP, ...plain })
const { access_token: token } = await oauth.processClientCredentialsResponse(server, client, granted)

let sent
const remember = (...request) => fetch(...(sent = request))
const first = await oauth.protectedResourceRequest(
  token, 'GET', new URL(API), undefined, undefined, { DPoP, [oauth.customFetch]: remember, ...plain })
const body = await first.json()
const again = await fetch(...sent)
console.log(JSON.stringify({ status: first.status, body, again: again.status, jkt: await DPoP.calculateThumbprint() }))
