// The sign-in form of a page.

import { at, attempt, session, signIn } from './api.js';
import { askToConfirm } from './confirm.js';

let whenSignedIn = () => {};

/**
 * Shows the form while nobody is signed in and `isWanted`; `done` runs after a sign-in. Enter submits
 * the first button, which signs in.
 */
export function askToSignIn(isWanted, done) {
  whenSignedIn = done;
  const isHidden = !isWanted || Boolean(session());
  if (at('sign-in').hidden !== isHidden) at('sign-in').hidden = isHidden;
}

at('sign-in-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const isNew = submit.submitter?.value === 'new';
  attempt(async () => {
    await signIn(at('email').value, at('password').value, isNew);
    at('password').value = '';
    at('sign-in').hidden = true;
    askToConfirm().catch(() => {});
    await whenSignedIn();
  }, submit.submitter);
});
