// What the pages find in the browser beyond the standard library.

interface Window {
    /** Stripe.js, once its script has run. */
    Stripe?: any;
}

/** Exists in workers only. */
declare const WorkerGlobalScope: unknown;
