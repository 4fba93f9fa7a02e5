// Calls an API with proofs of npm "dpop", for the test beside it; prints what came of it, and of sending the same proof
// again, as one line of JSON.
import * as dpop from 'dpop'

const { TOKEN_ENDPOINT, API, CLIENT_ID, CLIENT_SECRET } = process.env
const keys = await dpop.generateKeyPair('ES256')

const answer = await fetch(TOKEN_ENDPOINT, {
  method: 'POST',
  headers: { DPoP: await dpop.generateProof(keys, TOKEN_ENDPOINT, 'POST') },
  body: new URLSearchParams({ grant_type: 'client_credentials', client_id: CLIENT_ID, client_secret: CLIENT_SECRET }),
})
if (!answer.ok) throw new Error(`no token: ${answer.status} ${await answer.text()}`)
const { access_token: token } = await answer.json()

const proof = await dpop.generateProof(keys, API, 'GET', undefined, token)
const send = () => fetch(API, { headers: { Authorization: `DPoP ${token}`, DPoP: proof } })
const first = await send()
const body = await first.json()
const again = await send()
console.log(JSON.stringify({ status: first.status, body, again: again.status, jkt: await dpop.calculateThumbprint(keys.publicKey) }))
