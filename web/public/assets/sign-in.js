// Signing in where the person stands, without leaving the page.

import { at, attempt, session, signIn } from './api.js';

let whenSignedIn = () => {};

/**
 * Shows the form while nobody is signed in and `isWanted`; `done` runs after a sign-in. Enter signs
 * in: making an account takes the other button.
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
    await whenSignedIn();
  }, submit.submitter);
});
